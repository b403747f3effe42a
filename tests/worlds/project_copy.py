"""Fresh copies of the project, and DVC in them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from imports import ROOT
from worlds.profiles import params_text

STORE = "models/store/"  # reference weights, which copies do not need


def copy_project(folder: Path, profile: str) -> Path:
    """Copy the project without its results into a new git repository, with the parameters of a profile."""
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\n")
    for name in filter(None, names):
        if (ROOT / name).is_file() and not name.startswith(STORE):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    (folder / "dvc.lock").unlink(missing_ok=True)
    (folder / "params.yaml").write_text(params_text(profile), encoding="utf-8")
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    refresh_code(folder)
    return folder


def refresh_code(folder: Path) -> None:
    """Run `make code` in a copy of the project."""
    subprocess.run([sys.executable, "-m", "blobex.stages.code"], cwd=folder, check=True, capture_output=True)


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start DVC in a session of its own, so that it can be killed with all its child processes."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.Popen(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def dvc(folder: Path, *arguments: str) -> str:
    """Run DVC and return its output. Raises AssertionError if it fails."""
    process = start(folder, *arguments)
    out, err = process.communicate()
    assert process.returncode == 0, out[-2000:] + err[-4000:]
    return out
