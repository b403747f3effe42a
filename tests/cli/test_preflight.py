"""What `blobex explain` guesses and refuses before it imports torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import ExifTags, Image

from blobex.cli.preflight import choose_setup, find_params, known_outputs, split_names
from blobex.config.read import load_params
from blobex.core.errors import BlobexError

ROOT = Path(__file__).parents[2]
PARAMS = load_params(ROOT / "profiles" / "synthetic.yaml")


def photo(folder: Path, name: str, size: tuple[int, int], orientation: int = 1) -> Path:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.new("RGB", size).save(folder / name, exif=exif)
    return folder / name


def test_setup_is_that_of_the_shape(tmp_path: Path) -> None:
    square, wide = photo(tmp_path, "a.jpg", (30, 25)), photo(tmp_path, "b.jpg", (80, 45))
    turned = photo(tmp_path, "c.jpg", (45, 80), orientation=6)
    none = tmp_path / "models"

    def chosen(*photos: Path, setup: str | None = None) -> str:
        return choose_setup(setup, photos, none, PARAMS)

    assert (chosen(square), chosen(wide), chosen(turned)) == ("square", "rect", "rect")
    assert (chosen(tmp_path), chosen(square, wide), chosen(tmp_path / "missing.jpg")) == ("rect", "rect", "rect")
    assert chosen(wide, setup="square") == "square"
    with pytest.raises(BlobexError, match="unknown setup 'round'"):
        chosen(wide, setup="round")
    (none / "blobgan" / "square").mkdir(parents=True)
    assert chosen(wide) == "square"  # the only one that is trained


def test_names_are_split_unless_they_are_one() -> None:
    assert split_names(["stop, left", "stop"], ["stop", "left"]) == ["stop", "left"]
    assert split_names(["maillot, tank suit"], ["maillot, tank suit", "maillot"]) == ["maillot, tank suit"]
    assert split_names(None, ["stop"]) is None


def test_outputs_are_those_of_card_and_config(tmp_path: Path) -> None:
    (tmp_path / "card.yaml").write_text("model: mine:net\noutputs: [go, halt]\n")
    assert known_outputs(str(tmp_path / "card.yaml"), "rect", tmp_path) == ("go", "halt")
    for unclear in ("[drivable]", "free, blocked", "{0: free, 1: blocked}", "[no, yes]"):  # only the model knows
        (tmp_path / "card.yaml").write_text(f"model: mine:net\noutputs: {unclear}\n")
        assert known_outputs(str(tmp_path / "card.yaml"), "rect", tmp_path) == ()
    folder = tmp_path / "decision" / "rect" / "plain"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("kind: decision\noutputs: 4\n")
    assert known_outputs("plain", "rect", tmp_path) == ("forward", "stop", "left", "right")
    assert known_outputs("mine:net", "rect", tmp_path) == known_outputs("none.yaml", "rect", tmp_path) == ()


def test_parameters_are_those_of_the_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    models, given = tmp_path / "there" / "models", tmp_path / "given.yaml"
    models.mkdir(parents=True)
    assert find_params(None, models) == Path("params.yaml")
    (tmp_path / "there" / "params.yaml").touch()
    assert find_params(None, models) == tmp_path / "there" / "params.yaml"
    (models / "params.yaml").touch()
    assert find_params(None, models) == models / "params.yaml"
    assert find_params(given, models) == given


@pytest.mark.parametrize(
    ("options", "message"),
    [("--keys colour", "unknown key 'colour'"), ("--steps 0", "steps is 0"), ("--between 2,1", "between")],
)
def test_mistakes_are_refused_without_torch(tmp_path: Path, options: str, message: str) -> None:
    image, arguments = photo(tmp_path, "a.jpg", (64, 32)), options.split()
    code = (
        "import sys; from blobex.cli.main import main\n"
        f"sys.argv = ['blobex', 'explain', {str(image)!r}, '--out', 'out', *{arguments!r}]\n"
        "try: main()\nexcept SystemExit as end: assert end.code == 1\n"
        "assert 'torch' not in sys.modules"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    assert message in run.stderr
