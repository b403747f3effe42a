"""Write code/<stage>.txt for each stage of dvc.yaml: the code that DVC sees. Run by `make code`, never by DVC."""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

from blobex.core import code_state
from blobex.core.errors import BlobexError, sentence


def main() -> None:
    """Bring all code files up to date, and name the stages whose code changed."""
    stages = stage_names(Path("dvc.yaml"))
    changed = [stage for stage in stages if code_state.write_stage(stage)]
    for path in code_state.FOLDER.glob("*.txt"):
        if path.stem not in stages:
            path.unlink()
    print(f"code changed: {', '.join(changed)}" if changed else "no code changed")


def stage_names(path: Path) -> list[str]:
    """Return the names of the stages in a dvc.yaml."""
    try:
        return list(yaml.safe_load(path.read_text(encoding="utf-8"))["stages"])
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError) as error:
        raise BlobexError(f"cannot read {path}: run this where dvc.yaml is") from error


if __name__ == "__main__":
    try:
        main()
    except (BlobexError, OSError) as failure:
        sys.exit(f"blobex: {sentence(failure)}")
