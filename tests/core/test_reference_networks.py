"""Which networks are used in a folder without a project."""

from pathlib import Path

import pytest

from blobex.core import reference_networks
from blobex.core.errors import BlobexError


def make_networks(folder: Path) -> Path:
    (folder / "models" / "blobgan" / "square").mkdir(parents=True)
    (folder / "params.yaml").touch()
    return folder


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    monkeypatch.setattr(reference_networks, "WHEEL", tmp_path / "wheel")


@pytest.mark.parametrize(
    "variables, expected",
    [
        ({"BLOBEX_HOME": "/mine", "XDG_DATA_HOME": "/data", "HOME": "/me"}, "/mine"),
        ({"BLOBEX_HOME": "", "XDG_DATA_HOME": "/data", "HOME": "/me"}, "/data/blobex"),
        ({"BLOBEX_HOME": "", "XDG_DATA_HOME": "", "HOME": "/me"}, "/me/.local/share/blobex"),
    ],
)
def test_the_place_follows_the_xdg_specification(monkeypatch, variables, expected) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert reference_networks.pulled_folder() == Path(expected)


def test_pulled_networks_come_before_those_of_the_wheel(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("BLOBEX_HOME", str(tmp_path / "home"))
    with pytest.raises(BlobexError, match="no reference networks are there: `blobex pull --from PLACE`"):
        reference_networks.checked_params(reference_networks.trained("params.yaml"))
    assert reference_networks.trained("models") == Path("models")
    wheel = make_networks(tmp_path / "wheel")
    assert reference_networks.trained("models") == wheel / "models"
    home = make_networks(tmp_path / "home")
    assert reference_networks.trained("models") == home / "models"
    assert reference_networks.trained("params.yaml") == home / "params.yaml"
    assert reference_networks.trained("mine") == Path("mine")  # not among them


def test_folders_and_projects_of_the_user_come_first(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("BLOBEX_HOME", str(make_networks(tmp_path / "home")))
    Path("models").mkdir()
    assert reference_networks.trained("models") == Path("models")
    Path("models").rmdir()
    (tmp_path / "params.yaml").touch()  # a project without networks says so itself
    assert reference_networks.trained("models") == Path("../models")


def test_a_setup_that_was_not_pulled(tmp_path, monkeypatch) -> None:
    home = make_networks(tmp_path / "home")
    monkeypatch.setenv("BLOBEX_HOME", str(home))
    reference_networks.check_setup(home / "models", "square")
    reference_networks.check_setup(tmp_path / "others", "rect")  # whoever reads them says so
    with pytest.raises(BlobexError, match=r"no networks of rect in .*: `blobex pull --from PLACE`"):
        reference_networks.check_setup(home / "models", "rect")
