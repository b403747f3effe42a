"""Parameters of the project's profiles."""

from imports import ROOT

from blobex.config import profile
from blobex.config.params import Params

FOLDER = ROOT / "profiles"


def params_text(name: str) -> str:
    """Return the complete parameter file of a profile."""
    return profile.profile_text(name, FOLDER)


def profile_params(name: str) -> Params:
    """Return the parameters of a profile."""
    return profile.load_profile(name, FOLDER)
