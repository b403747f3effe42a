"""Commands, stages and the Python interface in a subfolder of a project."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.main import get_command
from worlds.tiny_models import save_models, smooth_images

from blobex.cli import main as cli
from blobex.cli.project import ProjectCommand
from blobex.core import project
from blobex.core.errors import BlobexError
from blobex.datasets.images import to_array
from blobex.explain.explainer import Explainer

MODULE = """
import torch
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 64, 2))
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A project with networks, and a subfolder with a photo, a mask, a model and its card."""
    folder = tmp_path_factory.mktemp("project")
    save_models(folder)
    deep = folder / "photos" / "deep"
    deep.mkdir(parents=True)
    Image.fromarray(to_array(smooth_images(1)[0])).save(deep / "photo.png")
    Image.fromarray(np.full((32, 64), 255, np.uint8)).save(deep / "mask.png")
    (deep / "deep_mine.py").write_text(MODULE)
    (deep / "card.yaml").write_text("model: deep_mine:net\nkind: attributes\noutputs: [go, halt]\n")
    return folder


def command(line: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", shlex.split(line))
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def test_explanation_from_a_subfolder_is_that_from_the_project(root, monkeypatch, capsys) -> None:
    """Photo, model, mask and results are those of the subfolder; networks and parameters those of the project."""
    line = "blobex explain {0}photo.png --out {0}{1} --decision {0}card.yaml --to halt --only {0}mask.png --steps 2"
    deep = "photos/deep/"
    assert command(line.format("", "here"), root / deep, monkeypatch) == 0
    assert "\nphoto.png  " in capsys.readouterr().out
    assert command(line.format(deep, "there"), root, monkeypatch) == 0
    settings = [json.loads((root / deep / name / "settings.json").read_text()) for name in ("here", "there")]
    assert settings[0] == settings[1]
    files = [sorted((root / deep / name).rglob("record.json")) for name in ("here", "there")]
    assert files[0][0].read_bytes() == files[1][0].read_bytes() and len(files[0]) == 1


def test_module_of_the_subfolder_is_found(root, monkeypatch) -> None:
    line = "blobex explain photo.png --out module --decision deep_mine:net --to 0 --steps 1"
    assert command(line, root / "photos" / "deep", monkeypatch) == 0


def test_every_command_finds_the_project() -> None:
    def commands(group: object) -> list[object]:
        below = getattr(group, "commands", None)
        return [group] if below is None else [leaf for each in below.values() for leaf in commands(each)]

    found = commands(get_command(cli.app))
    assert len(found) > 12 and all(isinstance(each, ProjectCommand) for each in found)


def test_python_interface_finds_the_project(root, monkeypatch) -> None:
    monkeypatch.chdir(root / "photos" / "deep")
    explainer = Explainer.load("rect", device="cpu")
    assert Path.cwd() == root / "photos" / "deep" and explainer.weights
    params = explainer.params
    params = dataclasses.replace(params, data=dataclasses.replace(params.data, perceptual="vgg"))
    with pytest.raises(BlobexError, match=f" at {os.path.relpath(root / params.data.external)}/vgg16"):
        Explainer.load("rect", params=params, device="cpu")
    monkeypatch.chdir(root)
    assert Explainer.load("rect", device="cpu").weights == explainer.weights


def test_folder_outside_of_a_project_stays(tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    assert project.project_folder() == tmp_path / "sub" == project.enter_project()
    assert project.in_project("models") == Path("models")
    assert command("blobex data", tmp_path / "sub", monkeypatch) == 1
    assert "cannot read params.yaml" in capsys.readouterr().err
    (tmp_path / "params.yaml").touch()
    (tmp_path / "models").mkdir()
    assert project.project_folder() == tmp_path and project.in_project("models") == Path("../models")
