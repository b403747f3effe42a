"""`blobex pull`: which files it gets from where, and that the folder changes at once or not."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import boto3
import numpy as np
import pytest
import yaml
from PIL import Image
from worlds.s3_server import BUCKET, serving
from worlds.tiny_models import NETWORK, save_models
from worlds.tiny_networks import random_blobgan, randomise
from worlds.tiny_world import HEIGHT

from blobex.cli import main as cli
from blobex.core.errors import BlobexError
from blobex.networks import weights
from blobex.networks.decision import DecisionModel
from blobex.networks.encoder import Encoder
from blobex.networks.parser import Parser
from blobex.release.pull import pull

KINDS = ("blobgan", "encoder", "parser", "decision/{}/plain", "decision/{}/biased")


def expected(*setups: str) -> set[str]:
    folders = [(kind if "{" in kind else f"{kind}/{{}}").format(setup) for setup in setups for kind in KINDS]
    return {f"models/{folder}/{name}" for folder in folders for name in ("config.yaml", "weights.safetensors")} | {
        "params.yaml"
    }


def held(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def add_square(folder: Path) -> None:
    """Save networks of `square`, too, for images of 32x32."""
    models, params = folder / "models", yaml.safe_load((folder / "params.yaml").read_text())
    params["setups"]["square"] = {"height": HEIGHT, "aspect_ratio": 1}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    blobgan, encoder = (
        random_blobgan(NETWORK, HEIGHT, 1),
        Encoder("stylegan", {4: 8, 8: 8, 16: 8, 32: 8}, HEIGHT, 1, 16, mlp_idx=-1),
    )
    weights.save(models / "blobgan/square", "blobgan", blobgan.config(), blobgan)
    weights.save(models / "encoder/square", "encoder", encoder.config, encoder)
    parser = Parser([8, 8], HEIGHT, HEIGHT)
    weights.save(models / "parser/square", "parser", parser.config, parser)
    for name in ("plain", "biased"):
        decision = randomise(DecisionModel("densenet_small", HEIGHT, HEIGHT), 0, spread=0.02)
        weights.save(models / "decision/square" / name, "decision", decision.config, decision)


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    folder = save_models(tmp_path_factory.mktemp("project"))
    add_square(folder)
    return folder


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "data" / "blobex"
    monkeypatch.setenv("BLOBEX_HOME", str(folder))
    (tmp_path / "anywhere").mkdir()
    monkeypatch.chdir(tmp_path / "anywhere")
    return folder


def test_the_networks_of_a_project(project, home) -> None:
    """Both setups, without networks that no explanation reads; what was there of the same parameters stays."""
    got = pull(str(project), "square")
    assert (got.setups, got.kept, got.removed) == (("square",), (), ()) and held(home) == expected("square")
    got = pull(str(project), "rect")
    assert (got.setups, got.kept, got.removed) == (("rect",), ("square",), ())
    assert held(home) == expected("square", "rect") and got.bytes == sum(
        (home / name).stat().st_size for name in held(home)
    )
    assert all((home / name).read_bytes() == (project / name).read_bytes() for name in held(home))
    assert {path.name for path in home.parent.iterdir()} == {"blobex"}


def test_networks_of_other_parameters_go(project, home, tmp_path) -> None:
    pull(str(project), "square")
    other = shutil.copytree(project, tmp_path / "other")
    text = (other / "params.yaml").read_text()
    (other / "params.yaml").write_text(text + "# another\n")
    got = pull(str(other), "rect")
    assert (got.kept, got.removed) == ((), ("square",)) and held(home) == expected("rect")


def test_a_release_has_a_folder_for_each_setup(project, home, tmp_path) -> None:
    for setup in ("square", "rect"):
        shutil.copytree(project, tmp_path / "release" / setup)
        for other in (tmp_path / "release" / setup / "models").glob({"square": "*/rect", "rect": "*/square"}[setup]):
            shutil.rmtree(other)
    assert pull(str(tmp_path / "release")).setups == ("square", "rect") and held(home) == expected("square", "rect")
    shutil.rmtree(home)
    assert pull(str(tmp_path / "release" / "rect")).setups == ("rect",) and held(home) == expected("rect")


def test_nothing_changes_if_a_network_is_damaged(project, home, tmp_path) -> None:
    pull(str(project), "rect")
    before = {name: (home / name).read_bytes() for name in held(home)}
    damaged = shutil.copytree(project, tmp_path / "damaged")
    (damaged / "models/parser/rect/weights.safetensors").write_bytes(b"0" * 100)
    with pytest.raises(BlobexError, match="parser/rect"):
        pull(str(damaged))
    assert {name: (home / name).read_bytes() for name in held(home)} == before
    assert {path.name for path in home.parent.iterdir()} == {"blobex"}


def test_places_without_networks(tmp_path) -> None:
    for place, words in (("absent", "no folder absent"), (str(tmp_path), "no networks of square or rect in")):
        with pytest.raises(BlobexError, match=words):
            pull(place)


def test_a_bucket(project, home, monkeypatch) -> None:
    """The same files lie in a folder of a bucket."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    with serving() as server:
        for name, value in server.owner.items():
            monkeypatch.setenv(name, value)
        client = boto3.client("s3", endpoint_url=server.url)
        for name in held(project):
            client.upload_file(str(project / name), BUCKET, f"team/road/{name}")
        assert pull(f"s3://{BUCKET}/team/road", "rect", server.url).setups == ("rect",)
        assert held(home) == expected("rect")
        with pytest.raises(BlobexError, match="no networks of rect in s3://"):
            pull(f"s3://{BUCKET}/team", "rect", server.url)
        for name, value in server.stranger.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(BlobexError, match="may not list it"):
            pull(f"s3://{BUCKET}/team/road", "rect", server.url)


def test_a_clone_whose_networks_are_only_in_its_remote(project, home, tmp_path) -> None:
    clone = shutil.copytree(project, tmp_path / "clone")

    def dvc(*arguments: str) -> None:
        command = [sys.executable, "-m", "dvc", *arguments, "--quiet"]
        subprocess.run(command, cwd=clone, check=True, env=os.environ | {"DVC_NO_ANALYTICS": "1"})

    dvc("init", "--no-scm")
    dvc("remote", "add", "--default", "store", str(tmp_path / "store"))
    dvc("add", "models")
    dvc("push")
    shutil.rmtree(clone / "models")
    shutil.rmtree(clone / ".dvc" / "cache")
    assert pull(str(clone), "rect").setups == ("rect",) and held(home) == expected("rect")
    assert not (clone / "models").exists()


def test_explain_in_any_folder_with_defaults(project, home, monkeypatch, capsys) -> None:
    """Setup, parameters, outputs and the folder of results are found; without networks one sentence says what to do."""
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 80, 3), np.uint8)).save("photo.png")

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["blobex", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return int(end.value.code or 0)

    assert run("explain", "photo.png") == 1
    error = capsys.readouterr().err
    assert "`blobex pull --from PLACE`" in error and error.count("\n") == 1
    assert run("pull", "rect", "--from", str(project)) == 0
    assert capsys.readouterr().out.startswith(f"{home}: networks of rect, ")
    assert run("explain", "photo.png") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "explained/snapshot_0.png" and Path(lines[-1]).is_file()
    assert sum(line.startswith("photo.png") for line in lines) == 4
    assert run("explain", "photo.png", "--setup", "square") == 1
    assert "no networks of square" in capsys.readouterr().err
