"""Lists of blobs of the tiny world, whose blobs are known, and what the command prints."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner
from worlds.tiny_world import BLOBS, HEIGHT, WIDTH, render, scenes, tiny_explainer

from blobex.cli import main as cli
from blobex.core.errors import BlobexError
from blobex.datasets.images import to_array
from blobex.explain.blob_listing import Listing, list_blobs, main_category
from blobex.explain.explainer import Explainer
from blobex.explain.loading import load_parser_if_present
from blobex.layout.splat import splat
from blobex.networks import weights
from blobex.networks.parser import Parser
from blobex.scenes.labels import SEMANTIC

NAMES = [f"blob {number}" for number in range(BLOBS)]
LIGHT = "0.45,0.1,0.55,0.3"  # where blob 4 is


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Three images of the tiny world."""
    paths = [tmp_path / f"photo_{number}.png" for number in range(3)]
    for path, image in zip(paths, render(scenes(3)), strict=True):
        Image.fromarray(to_array(image)).save(path)
    return paths


@pytest.fixture
def command(photos: list[Path], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """`blobex blobs` of two photos, with the tiny world's networks and the parser in the folder of models."""
    folder = photos[0].parent

    def load(setup: str, models: Path, *_: object) -> Explainer:
        tiny = tiny_explainer()
        parser = load_parser_if_present(models / "parser" / setup, tiny.params.setup(setup), tiny.device)
        return dataclasses.replace(tiny, parser=parser)

    monkeypatch.setattr(Explainer, "load", load)
    options = ["--out", str(folder / "maps"), "--models", str(folder / "models")]
    return ["blobs", str(photos[0]), str(photos[1]), *options]


def listed(photos: Sequence[Path], region: str | None = None) -> list[Listing]:
    return list_blobs(tiny_explainer(), photos, NAMES, photos[0].parent / "maps", region)


def save_parser(models: Path, height: int = HEIGHT) -> None:
    torch.manual_seed(0)
    parser = Parser([4, 6], height, 2 * height)
    weights.save(models / "parser" / "rect", "parser", parser.config, parser)


def test_positions_and_sizes_are_those_of_the_scenes(photos: list[Path]) -> None:
    listings, out = listed(photos), photos[0].parent / "maps"
    expected = [f"photo_{number}.{suffix}" for number in range(3) for suffix in ("json", "png")]
    assert sorted(path.name for path in out.iterdir()) == expected
    truth = scenes(3)
    sizes = splat(truth, HEIGHT, WIDTH).mean((2, 3))
    for index, listing in enumerate(listings):
        assert [blob.number for blob in listing.blobs] == list(range(BLOBS))
        np.testing.assert_allclose([blob.x for blob in listing.blobs], truth.xs[index], atol=0.03)
        np.testing.assert_allclose([blob.y for blob in listing.blobs], truth.ys[index], atol=0.03)
        np.testing.assert_allclose([blob.size for blob in listing.blobs], sizes[index, 1:], atol=0.03)
        assert sum(blob.size for blob in listing.blobs) + listing.background == pytest.approx(1, abs=1e-5)
        assert all(blob.visible and blob.category is None for blob in listing.blobs)
        content = json.loads((out / f"photo_{index}.json").read_text())
        assert content["image"] == str(photos[index])
        assert (content["blobs"][4]["name"], content["blobs"][4]["x"]) == ("blob 4", listing.blobs[4].x)
        with Image.open(out / f"photo_{index}.png") as sheet:
            assert sheet.width > 1000


def test_a_region_chooses_the_blob_that_paints_it(photos: list[Path]) -> None:
    (listing,) = listed(photos[:1], LIGHT)
    assert listing.chosen == (4,) and listing.background_chosen is False
    assert json.loads((photos[0].parent / "maps" / "photo_0.json").read_text())["chosen"] == [4]
    lines = listing.table.splitlines()
    assert [line[5] for line in lines if line.startswith("*")] == ["4"]
    assert lines[-1] == f"  painting {LIGHT}: 4"


def test_names_of_blobs_stand_in_table_and_legend(photos: list[Path]) -> None:
    names = ("road", "vehicle 1", "vehicle 2", "tree", "light")
    (listing,) = list_blobs(tiny_explainer(), photos[:1], names, photos[0].parent / "maps")
    rows = listing.table.splitlines()[2:]
    assert [row[8:17].strip() for row in rows[:-1]] == list(names)
    assert len({row.rindex("%") for row in rows}) == 1  # columns are aligned
    assert listing.blobs[4].label.startswith("light, ")
    assert dataclasses.replace(listing.blobs[4], name="blob 4").label == f"{listing.blobs[4].size:.0%} of all"


def test_main_category_by_hand() -> None:
    car, road = SEMANTIC.index("car"), SEMANTIC.index("road")
    categories = torch.tensor([[car, car, road, road]])
    assert main_category(torch.tensor([[0.5, 0.25, 0.2, 0.05]]), categories) == ("car", pytest.approx(0.75))
    assert main_category(torch.tensor([[0.1, 0.0, 0.3, 0.0]]), categories) == ("road", pytest.approx(0.75))
    assert main_category(torch.zeros(1, 4), categories) == (None, None)
    assert main_category(torch.ones(1, 4), None) == (None, None)


def test_the_parser_names_what_blobs_paint(photos: list[Path]) -> None:
    def parse(images: torch.Tensor) -> object:
        """Red is a traffic light, everything else is sky."""
        red = (images[:, 0] > 0.5) & (images[:, 1] < 0)
        categories = torch.where(red, SEMANTIC.index("traffic light"), SEMANTIC.index("sky"))
        semantic = torch.nn.functional.one_hot(categories, len(SEMANTIC)).permute(0, 3, 1, 2)
        return type("Output", (), {"semantic": semantic})

    explainer = dataclasses.replace(tiny_explainer(), parser=parse)  # type: ignore[arg-type]
    red, green = (one.blobs[4] for one in list_blobs(explainer, photos[:2], NAMES, photos[0].parent / "maps"))
    assert red.category == "traffic light" and red.share is not None and red.share > 0.6
    assert green.category == "sky"


def test_the_command_prints_a_table_for_each_photo(photos: list[Path], command: list[str]) -> None:
    result = CliRunner().invoke(cli.app, command)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == f"{photos[0]}  (no parser: what blobs paint is unknown)"
    assert len(lines) == 2 * (1 + 1 + BLOBS + 1)
    save_parser(photos[0].parent / "models")
    lines = CliRunner().invoke(cli.app, [*command, "--region", "0,0,1,0.5"]).stdout.splitlines()
    assert lines[0] == str(photos[0]) and lines[2].split()[-1].endswith("%")
    assert lines[8].startswith("  painting 0,0,1,0.5: ")


def test_photos_with_the_same_name_get_files_of_their_own(photos: list[Path]) -> None:
    folder = photos[0].parent
    (folder / "more").mkdir()
    other = photos[1].rename(folder / "more" / "photo_0.png")
    listed([photos[0], other])
    images = {path.stem: json.loads(path.read_text())["image"] for path in (folder / "maps").glob("*.json")}
    assert images == {"photo_0": str(photos[0]), "photo_0_2": str(other)}


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ("car ahead", "photo_0.png: region 'car ahead' is a name, which takes a trained parser"),
        ("0,0,2,1", "reaches out of the image"),
    ],
)
def test_nothing_is_written_for_a_wrong_region(photos: list[Path], region: str, message: str) -> None:
    with pytest.raises(BlobexError, match=message):
        listed(photos, region)
    assert not (photos[0].parent / "maps").exists()


def test_a_file_in_the_way_and_a_parser_of_another_size_are_refused(
    photos: list[Path], command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    maps = photos[0].parent / "maps"
    maps.write_text("mine")
    monkeypatch.setattr(sys, "argv", ["blobex", *command])
    with pytest.raises(SystemExit):
        cli.main()
    assert capsys.readouterr().err.startswith(f"blobex: cannot write into {maps} (")
    save_parser(photos[0].parent / "models", 2 * HEIGHT)
    with pytest.raises(SystemExit):
        cli.main()
    assert "parser in" in (error := capsys.readouterr().err) and "is for 64x128 images but rect has 32x64" in error
