"""Build of the wheel: the reference networks of one setup join the package if `dvc pull` has fetched them."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SETUP = "square"
# Those that explanations read; blobex/release/pull.py chooses the same ones.
KINDS = ("blobgan", "blobgan_pretrain", "parser", "control")
NAMES = ("config.yaml", "weights.safetensors")
PLACE = Path("blobex", "reference")


def network_files() -> list[Path]:
    """Return the paths of the networks' files; none if a network is missing."""
    folders = [Path("models", kind, SETUP) for kind in KINDS] + sorted(Path("models", "decision", SETUP).glob("*"))
    files = [folder / name for folder in folders for name in NAMES]
    return files if len(folders) > len(KINDS) and all(path.is_file() for path in files) else []


class BuildWithNetworks(build_py):
    """Build that adds the networks and their parameters as blobex/reference."""

    def run(self) -> None:
        super().run()
        files = [] if self.editable_mode else network_files()
        for path in [Path("params.yaml"), *files] if files else []:
            target = Path(self.build_lib) / PLACE / path
            self.mkpath(str(target.parent))
            self.copy_file(str(path), str(target))


setup(cmdclass={"build_py": BuildWithNetworks})
