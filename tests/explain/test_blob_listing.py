"""The listing of blobs: what it says of the tiny world, whose blobs are known, and what the command prints."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner
from worlds.tiny_world import BLOBS, HEIGHT, WIDTH, render, scenes, tiny_explainer, tiny_params

from blobex.cli import main as cli
from blobex.core.errors import BlobexError
from blobex.datasets.images import to_array
from blobex.explain import blob_listing, explainer, loading
from blobex.explain.blob_listing import _category, list_blobs
from blobex.layout.splat import splat
from blobex.networks import weights
from blobex.networks.parser import Parser
from blobex.scenes.labels import SEMANTIC


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three photos of the tiny world, and a folder of models that says how its generator paints."""

    def load(_: object, models: Path, *__: object) -> explainer.Explainer:
        tiny = tiny_explainer(tiny_params())
        size = tiny.params.setup("rect")
        parser = loading.load_parser_if_present(models / "parser" / "rect", size, tiny.device)
        return dataclasses.replace(tiny, parser=parser)

    monkeypatch.setattr(explainer.Explainer, "load", load)
    for index, picture in enumerate(render(scenes(3))):
        Image.fromarray(to_array(picture)).save(tmp_path / f"photo_{index}.png")
    return tmp_path


def photos(world: Path) -> list[Path]:
    return sorted(world.glob("photo_*.png"))


def add_parser(world: Path, height: int = HEIGHT) -> None:
    torch.manual_seed(0)
    parser = Parser([4, 6], height, 2 * height)
    weights.save(world / "models" / "parser" / "rect", "parser", parser.config, parser)


def test_the_blobs_of_the_tiny_world_are_found_and_written(world: Path) -> None:
    out = world / "maps"
    listings = list_blobs(photos(world), out, models=world / "models")
    assert sorted(path.name for path in out.iterdir()) == sorted(
        f"photo_{n}.{ending}" for n in range(3) for ending in ("json", "png")
    )
    truth = scenes(3)
    sizes = splat(truth, HEIGHT, WIDTH).mean((2, 3))
    for index, listing in enumerate(listings):
        assert [blob.number for blob in listing.blobs] == list(range(BLOBS))
        np.testing.assert_allclose([blob.x for blob in listing.blobs], truth.xs[index], atol=0.03)
        np.testing.assert_allclose([blob.y for blob in listing.blobs], truth.ys[index], atol=0.03)
        np.testing.assert_allclose([blob.size for blob in listing.blobs], sizes[index, 1:], atol=0.03)
        assert sum(blob.size for blob in listing.blobs) + listing.background == pytest.approx(1, abs=1e-5)
        assert all(blob.visible and blob.category is None for blob in listing.blobs)
        read = json.loads((out / f"photo_{index}.json").read_text())
        assert read["blobs"][4]["name"] == "blob 4"
        assert read["blobs"][4]["x"] == listing.blobs[4].x and read["image"] == str(photos(world)[index])
        with Image.open(out / f"photo_{index}.png") as sheet:
            assert sheet.width > 1000


def test_a_region_chooses_its_blob(world: Path) -> None:
    light = "0.45,0.1,0.55,0.3"  # blob 4 is a light in the upper middle
    (listing,) = list_blobs(photos(world)[:1], world / "maps", models=world / "models", region=light)
    assert listing.chosen == (4,) and listing.background_chosen is False
    assert json.loads((world / "maps" / "photo_0.json").read_text())["chosen"] == [4]
    lines = listing.table.splitlines()
    assert [line[5] for line in lines if line.startswith("*")] == ["4"]
    assert lines[-1] == f"  painting {light}: 4"


def test_blobs_are_called_by_their_slots(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("road", "vehicle 1", "vehicle 2", "tree", "light")
    monkeypatch.setattr(blob_listing, "blob_names", lambda *_: names)
    (listing,) = list_blobs(photos(world)[:1], world / "maps", models=world / "models")
    rows = listing.table.splitlines()[2:]
    assert [row[8:17].strip() for row in rows[:-1]] == list(names)
    assert len({row.rindex("%") for row in rows}) == 1  # columns stand below each other
    assert listing.blobs[4].label.startswith("light, ")
    assert dataclasses.replace(listing.blobs[4], name="blob 4").label == f"{listing.blobs[4].size:.0%} of all"


def test_what_a_blob_paints_most_by_hand() -> None:
    car, road = SEMANTIC.index("car"), SEMANTIC.index("road")
    named = torch.tensor([[car, car, road, road]])
    assert _category(torch.tensor([[0.5, 0.25, 0.2, 0.05]]), named) == ("car", pytest.approx(0.75))
    assert _category(torch.tensor([[0.1, 0.0, 0.3, 0.0]]), named) == ("road", pytest.approx(0.75))
    assert _category(torch.zeros(1, 4), named) == _category(torch.ones(1, 4), None) == (None, None)


def test_a_parser_names_what_blobs_paint(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_parser(world)

    class Knowing:
        """Red is a traffic light, everything else is sky."""

        def to(self, _: object) -> object:
            return self

        def __call__(self, pictures: torch.Tensor) -> object:
            red = (pictures[:, 0] > 0.5) & (pictures[:, 1] < 0)
            named = torch.where(red, SEMANTIC.index("traffic light"), SEMANTIC.index("sky"))
            semantic = torch.nn.functional.one_hot(named, len(SEMANTIC)).permute(0, 3, 1, 2)
            return type("Output", (), {"semantic": semantic})

    monkeypatch.setattr(loading, "load_parser", lambda _: Knowing())
    red, green = (each.blobs[4] for each in list_blobs(photos(world)[:2], world / "maps", models=world / "models"))
    assert red.category == "traffic light" and red.share is not None and red.share > 0.6
    assert green.category == "sky"


def test_the_command_prints_a_table_for_each_photo(world: Path) -> None:
    arguments = ["blobs", str(world / "photo_0.png"), str(world / "photo_1.png"), "--out", str(world / "maps")]
    result = CliRunner().invoke(cli.app, [*arguments, "--models", str(world / "models")])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == f"{world / 'photo_0.png'}  (no parser: what blobs paint is unknown)"
    assert len(lines) == 2 * (1 + 1 + BLOBS + 1)
    add_parser(world)
    result = CliRunner().invoke(cli.app, [*arguments, "--models", str(world / "models"), "--region", "0,0,1,0.5"])
    lines = result.stdout.splitlines()
    assert lines[0] == str(world / "photo_0.png") and lines[2].split()[-1].endswith("%")
    assert lines[8].startswith("  painting 0,0,1,0.5: ")


def test_photos_of_one_name_keep_apart(world: Path) -> None:
    (world / "more").mkdir()
    photos(world)[1].rename(world / "more" / "photo_0.png")
    list_blobs([world / "photo_0.png", world / "more" / "photo_0.png"], world / "maps", models=world / "models")
    stems = {path.stem: json.loads(path.read_text())["image"] for path in (world / "maps").glob("*.json")}
    assert stems == {"photo_0": str(world / "photo_0.png"), "photo_0_2": str(world / "more" / "photo_0.png")}


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ("car ahead", "photo_0.png: region 'car ahead' is a name, which takes a trained parser"),
        ("0,0,2,1", "reaches out of the picture"),
    ],
)
def test_nothing_is_written_where_a_region_is_wrong(world: Path, region: str, message: str) -> None:
    with pytest.raises(BlobexError, match=message):
        list_blobs(photos(world), world / "maps", models=world / "models", region=region)
    assert not (world / "maps").exists()


def test_a_parser_of_another_size_and_a_file_in_the_way_are_told(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (world / "maps").write_text("mine")
    command = ["blobs", str(world / "photo_0.png"), "--out", str(world / "maps"), "--models", str(world / "models")]
    monkeypatch.setattr(sys, "argv", ["blobex", *command])
    with pytest.raises(SystemExit):
        cli.main()
    assert capsys.readouterr().err.startswith(f"blobex: cannot write into {world / 'maps'} (")
    add_parser(world, 2 * HEIGHT)
    with pytest.raises(BlobexError, match=r"parser in .* is for 64x128 pictures but rect has 32x64"):
        list_blobs(photos(world), world / "other", models=world / "models")
