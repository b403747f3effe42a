"""The command line: what it prints, what it writes, and one sentence for every mistake."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from tiny_world import render, scenes, tiny_explainer, tiny_params
from typer.testing import CliRunner

from blobex import __version__, cli, explainer
from blobex.datasets.images import to_array


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of three pictures of the tiny world, which the command then explains."""

    def load(setup: str, *_: object) -> explainer.Explainer:
        assert setup == "rect"
        return tiny_explainer(tiny_params(steps=20))

    monkeypatch.setattr(explainer.Explainer, "load", load)
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, picture in enumerate(render(scenes(3))):
        Image.fromarray(to_array(picture)).save(folder / f"photo_{index}.png")
    return folder


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """The exit code of `blobex ARGUMENTS`."""
    monkeypatch.setattr(sys, "argv", ["blobex", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def test_explain_prints_and_writes(photos: Path) -> None:
    out = photos.parent / "out"
    single = photos / "photo_1.png"
    arguments = ["explain", str(photos), str(single), "--out", str(out), "--attribute", "stop", "--attribute", "left"]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert len(lines) == 4 * 2 + 1 + 1
    assert lines[0].startswith(f"{photos / 'photo_0.png'}  stop 1.00 -> 0.")
    assert lines[0].endswith("  flipped")
    assert lines[8].endswith("of 8 flipped")
    assert lines[9] == str(out / "snapshot_0.png")
    assert sorted(path.name for path in out.iterdir()) == ["explanations.parquet", "metadata_0.pt", "snapshot_0.png"]


def test_options_reach_the_search(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []

    def explain(_: object, *arguments: object, **options: object) -> list[object]:
        seen.append((arguments[1:5], options))
        return []

    monkeypatch.setattr(explainer.Explainer, "explain", explain)
    options = (
        "--keys size --keys style --blobs 3 --blobs 5 --no-background --steps 7 --lambda-prox 0.2 --learning-rate 0.1"
    )
    arguments = ["explain", str(photos), "--out", "out", "--attribute", "right", *options.split()]
    assert CliRunner().invoke(cli.app, arguments).exit_code == 0
    assert CliRunner().invoke(cli.app, ["explain", str(photos), "--out", "out"]).exit_code == 0
    numbers = {"steps": 7, "lambda_prox": 0.2, "learning_rate": 0.1}
    assert seen[0] == ((["right"], ["size", "style"], [3, 5], False), numbers)
    assert seen[1] == ((["stop"], None, None, None), dict.fromkeys(numbers))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--attribute", "reverse"], "unknown attribute 'reverse'"),
        (["--keys", "colour"], "unknown key 'colour'"),
        (["--blobs", "99"], "unknown blob 99"),
        (["--steps", "0"], "explain.rect.steps is 0"),
        (["nowhere.png"], "there is no picture nowhere.png"),
        (["EMPTY"], "no pictures in"),
        (["TEXT"], "is not a picture"),
        (["TRUNCATED"], "cannot be decoded"),
        (["--out", "OTHER"], "notes.txt"),
    ],
)
def test_mistakes_are_told_in_one_line(
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    bad = photos.parent / "bad"
    bad.mkdir()
    (bad / "empty").mkdir()
    (bad / "text.png").write_text("no picture")
    Image.fromarray(to_array(render(scenes(1))[0])).resize((400, 200)).save(bad / "whole.jpg")
    (bad / "truncated.jpg").write_bytes((bad / "whole.jpg").read_bytes()[:2000])
    other = photos.parent / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    places = {"EMPTY": bad / "empty", "TEXT": bad / "text.png", "TRUNCATED": bad / "truncated.jpg", "OTHER": other}
    out = photos.parent / "out"
    given = [str(places.get(argument, argument)) for argument in arguments]
    before = sorted(photos.parent.rglob("*"))
    assert run(monkeypatch, "explain", photos, "--out", out, *given) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("blobex: ") and message in printed.err
    assert printed.err.count("\n") == 1 and "Traceback" not in printed.err
    assert printed.out == ""
    assert sorted(photos.parent.rglob("*")) == before


def test_missing_models_and_parameters_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (64, 32)).save(tmp_path / "photo.png")
    command = ["explain", tmp_path / "photo.png", "--out", tmp_path / "out", "--models", tmp_path]
    assert run(monkeypatch, *command, "--params", tmp_path / "none.yaml") == 1
    assert "blobex: cannot read" in capsys.readouterr().err
    assert run(monkeypatch, *command, "--params", Path(__file__).parents[1] / "profiles" / "synthetic.yaml") == 1
    assert "blobex: no blobgan weights in" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"blobex {__version__}\n"


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from blobex.cli import app;"
        "result = CliRunner().invoke(app, ['explain', '--help']); assert '--lambda-prox' in result.output;"
        "assert not {'torch', 'numpy', 'PIL'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
