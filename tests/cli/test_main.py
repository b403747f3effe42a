"""The command line: output, files, and one sentence per error."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from typer.testing import CliRunner
from worlds.tiny_world import OUTPUTS, decide, road_images, tiny_explainer, tiny_params

from blobex import __version__
from blobex.cli import main as cli
from blobex.cli import preflight
from blobex.core.errors import BlobexError
from blobex.decisions.source import from_callable
from blobex.explain import explainer
from blobex.explain.request import Request


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three images of the tiny world, and its networks in place of trained ones."""

    def load(setup: str, *_: object) -> explainer.Explainer:
        assert setup == "rect"
        return tiny_explainer(tiny_params(steps=20))

    monkeypatch.setattr(explainer.Explainer, "load", load)
    monkeypatch.setattr(preflight, "known_outputs", lambda *_: ())  # those of models/, which are not these
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, image in enumerate(road_images(3)):
        Image.fromarray(image).save(folder / f"photo_{index}.png")
    return folder


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Return the exit code of `blobex ARGUMENTS`."""
    monkeypatch.setattr(sys, "argv", ["blobex", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def check_error(capsys: pytest.CaptureFixture[str], message: str) -> None:
    """Check that exactly one line was printed, on stderr."""
    printed = capsys.readouterr()
    assert printed.err.startswith("blobex: ") and message in printed.err
    assert printed.err.count("\n") == 1 and printed.out == ""


def test_explain_prints_and_writes(photos: Path) -> None:
    out = photos.parent / "out"
    single = photos / "photo_1.png"
    arguments = ["explain", str(photos), str(single), "--out", str(out), "--attribute", "stop", "--attribute", "left"]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert len(lines) == 1 + 4 * 2 + 1 + 1
    assert lines[0].split() == ["image", "decision", "score", "verdict", "what", "changed"]
    assert re.match(r"photo_0.png +stop -> not stop +1.00 -> 0.\d\d +flipped .*blob 4 ", lines[1])  # the light
    assert re.match(r"\d of 8 flipped", lines[9])
    assert lines[10] == str(out / "snapshot_0.png")
    assert len(result.stderr.splitlines()) == 1  # where no bar can be drawn, one line
    commas = ["explain", str(photos), str(single), "--out", str(out), "--attribute", "stop, left", "--verbose"]
    details = CliRunner().invoke(cli.app, commas).stdout.splitlines()  # the same question, read from the folder
    assert details[:9] == lines[:9] and details[9] == "photo_0.png, stop -> not stop"
    assert any(line.startswith("  blob 4 ") for line in details[10:])
    content = json.loads(CliRunner().invoke(cli.app, [*arguments, "--json"]).stdout)
    assert len(content["explanations"]) == 8 and content["snapshots"] == [str(out / "snapshot_0.png")]
    assert content["flipped"] == sum(each["verdict"] == "flipped" for each in content["explanations"])
    names = ["explanations.parquet", "pictures", "settings.json", "snapshot_0.png"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert CliRunner().invoke(cli.app, [*arguments, "--format", "published"]).exit_code == 0
    assert (out / "metadata_0.pt").is_file()


def test_images_that_show_no_scene_are_named_at_the_end(photos: Path) -> None:
    Image.new("RGB", (1, 1), "grey").save(photos / "photo_9.png")
    arguments = ["explain", str(photos), "--out", str(photos.parent / "out"), "--attribute", "stop"]
    lines = CliRunner().invoke(cli.app, arguments).stdout.splitlines()
    doubt = "the image is too small (1 x 1 pixels for"
    assert sum(doubt in line for line in lines) == 2  # in the words of its explanation, and at the end
    assert re.search(", in doubt  .*" + re.escape(doubt), lines[4]) and "of 4 flipped" in lines[-3]
    assert lines[-2].startswith(f"{photos / 'photo_9.png'} is not to be trusted: {doubt}")


def test_options_decide_what_is_searched_and_written(photos: Path) -> None:
    out = photos.parent / "out"
    options = (
        "--attribute right --keys size --keys style --blobs 3 --blobs 2 --no-background --steps 7 --lambda-prox 0.2 "
        "--learning-rate 0.1 --variant diverse --diverse 2 --all --compose full --gate skip --gif --format published"
    )
    command = ["explain", str(photos / "photo_0.png"), "--out", str(out)]
    result = CliRunner().invoke(cli.app, [*command, *options.split()])
    assert result.exit_code == 0, result.output
    settings = json.loads((out / "settings.json").read_text())
    request = settings["request"]
    assert (request["attributes"], request["blobs"], request["photo"]) == (["right"], [3, 2], False)
    assert request["variant"] | {"keys": ["sizes", "spatial_style"], "few": False, "count": 2} == request["variant"]
    assert request["variant"]["background"] is False and request["gate"]["action"] == "skip"
    assert request["setup"] | {"steps": 7, "lambda_prox": 0.2, "learning_rate": 0.1} == request["setup"]
    assert settings["gif"] and len(list(out.rglob("*.gif"))) == 2 and (out / "metadata_0.pt").is_file()
    refused = CliRunner().invoke(cli.app, [*command, "--only", "0.42,0.08,0.58,0.36"])
    assert isinstance(refused.exception, BlobexError) and "results of other settings" in str(refused.exception)
    assert CliRunner().invoke(cli.app, [*command, "--only", "0.42,0.08,0.58,0.36", "--replace"]).exit_code == 0
    request = json.loads((out / "settings.json").read_text())["request"]
    assert (request["only"], request["attributes"], request["blobs"]) == ("0.42,0.08,0.58,0.36", None, None)
    assert request["photo"] and not list(out.rglob("*.gif")) and not (out / "metadata_0.pt").exists()


def test_shards_are_merged_on_the_command_line(photos: Path) -> None:
    out, table = photos.parent / "out", photos.parent / "all.parquet"
    for k in (1, 2):
        command = ["explain", str(photos), "--to", "stop", "--steps", "1", "-o", str(out), "--shard", f"{k}/2"]
        lines = CliRunner().invoke(cli.app, command).stdout.splitlines()
        assert lines[-1] == str(out / f"{k}-of-2" / "snapshot_0.png")
    merged = CliRunner().invoke(cli.app, ["merge", str(out), "--out", str(table)])
    assert merged.exit_code == 0 and merged.stdout == f"{table}: 3 rows\n" and table.is_file()
    refused = CliRunner().invoke(cli.app, [*command[:-1], "3/2"])
    assert isinstance(refused.exception, BlobexError) and "give K/N" in str(refused.exception)


def use(monkeypatch: pytest.MonkeyPatch, kind: str, function: object, *outputs: str) -> None:
    """Replace the model to explain."""
    decision = from_callable(function, kind, outputs, name="theirs")  # type: ignore[arg-type]
    monkeypatch.setattr(explainer.Explainer, "load", lambda *_: tiny_explainer(tiny_params(steps=60), decision))


def test_classes_on_the_command_line(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, "classes", decide, *OUTPUTS)
    arguments = ["explain", str(photos), "--out", str(photos.parent / "out"), "--keys", "appearance"]
    lines = CliRunner().invoke(cli.app, arguments).stdout.splitlines()
    assert re.search("  forward -> left +0.", lines[2])  # the runner-up
    lines = CliRunner().invoke(cli.app, [*arguments, "--to", "forward", "--replace"]).stdout.splitlines()
    assert re.search(r"  stop -> forward +0.00 -> 0.\d\d +flipped  ", lines[1])
    assert lines[4] == "2 of 3 flipped, 1 already so"


def test_segmentation_on_the_command_line(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def colours(images):
        half = F.avg_pool2d(images, 2)
        return 10 * half - half.new_tensor([0.0, 0.0, 3.0])[:, None, None]

    use(monkeypatch, "segmentation", colours, "red", "green", "blue")
    arguments = ["explain", str(photos / "photo_0.png"), "--out", str(photos.parent / "out"), "--keys", "appearance"]
    arguments += ["--region", "0.42,0.08,0.58,0.36", "--from", "red", "--to", "green"]
    lines = CliRunner().invoke(cli.app, arguments).stdout.splitlines()
    assert re.search(r"  red -> green  0.00 -> \S+  flipped  ", lines[1])


def test_numbers_on_the_command_line(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def speed(images):  # of one output, which needs no name
        light = images[:, :, 2:12, 26:38].mean((2, 3))
        return 50 - 40 * (light[:, :1] - light[:, 1:2])

    use(monkeypatch, "regression", speed, "speed")
    arguments = ["explain", str(photos / "photo_0.png"), "--out", str(photos.parent / "out"), "--keys", "appearance"]
    for options, asked in [(["--at-least", "40"], "speed >= 40"), (["--between", "44,46"], "speed from 44 to 46")]:
        lines = CliRunner().invoke(cli.app, [*arguments, *options, "--replace"]).stdout.splitlines()
        assert re.search(rf"  speed (\S+) -> {asked}  \1 -> 4\S*  flipped  ", lines[1])
    wrong = CliRunner().invoke(cli.app, [*arguments, "--between", "44"])
    assert "--between 44: give two numbers, such as 0.2,0.4" in str(wrong.exception)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--region", "0,0,1"], "--region 0,0,1: give left,top,right,bottom, such as"),
        (["--region", "a,b,c,d"], "--region a,b,c,d: give left,top,right,bottom"),
        (["--region", "0,0,2,1", "--to", "green"], "give left, top, right, bottom as shares of the image"),
        (["--from", "grey", "--to", "green"], "theirs has no output 'grey': choose from red, green, blue"),
        (["--to", "grey"], "theirs has no output 'grey': choose from red, green, blue"),
        ([], "no output to change: name one of red, green, blue"),
        (["--region", "0.47,0.1,0.53,0.3", "--from", "blue", "--to", "green"], "has no blue in the region"),
    ],
)
def test_wrong_segmentation_options_give_one_line(
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    use(monkeypatch, "segmentation", lambda images: images, "red", "green", "blue")
    assert run(monkeypatch, "explain", photos, "--out", photos.parent / "out", *arguments) == 1
    check_error(capsys, message)
    assert not (photos.parent / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--attribute", "reverse"], "painted has no output 'reverse'"),
        (["--region", "0,0,1,1"], "a region is for segmentation models"),
        (["--keys", "colour"], "unknown key 'colour'"),
        (["--blobs", "99"], "unknown blob 99"),
        (["--steps", "0"], "explain.rect.steps is 0"),
        (["nowhere.png"], "there is no image nowhere.png"),
        (["EMPTY"], "no images in"),
        (["TEXT"], "is not an image"),
        (["TRUNCATED"], "cannot be decoded"),
        (["--out", "OTHER"], "notes.txt"),
    ],
)
def test_bad_input_gives_one_line(
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
    Image.fromarray(road_images(1)[0]).resize((400, 200)).save(bad / "whole.jpg")
    (bad / "truncated.jpg").write_bytes((bad / "whole.jpg").read_bytes()[:2000])
    other = photos.parent / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    places = {"EMPTY": bad / "empty", "TEXT": bad / "text.png", "TRUNCATED": bad / "truncated.jpg", "OTHER": other}
    out = photos.parent / "out"
    given = [str(places.get(argument, argument)) for argument in arguments]
    before = sorted(photos.parent.rglob("*"))
    assert run(monkeypatch, "explain", photos, "--out", out, *given) == 1
    check_error(capsys, message)
    assert sorted(photos.parent.rglob("*")) == before


def test_missing_models_and_parameters_give_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (64, 32)).save(tmp_path / "photo.png")
    command = ["explain", tmp_path / "photo.png", "--out", tmp_path / "out", "--models", tmp_path]
    assert run(monkeypatch, *command, "--params", tmp_path / "none.yaml") == 1
    assert "blobex: cannot read" in capsys.readouterr().err
    assert run(monkeypatch, *command, "--params", Path(__file__).parents[2] / "profiles" / "synthetic.yaml") == 1
    assert "blobex: no blobgan weights in" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"blobex {__version__}\n"


def test_the_shell_completes_options() -> None:
    code = "import sys; sys.argv = ['blobex']; from blobex.cli.main import main; main()"
    variables = {"_BLOBEX_COMPLETE": "complete_bash", "COMP_WORDS": "blobex explain --lam", "COMP_CWORD": "2"}
    result = subprocess.run([sys.executable, "-c", code], env=os.environ | variables, capture_output=True, text=True)
    assert result.stdout.split() == ["--lambda-prox"]


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from blobex.cli.main import app;"
        "result = CliRunner().invoke(app, ['explain', '--help']); assert '--lambda-prox' in result.output;"
        "assert not {'torch', 'numpy', 'PIL'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_kind_of_sweep_has_a_command() -> None:
    from blobex.cli.sweep import SWEEPS
    from blobex.sweeps.storage import KINDS

    assert tuple(SWEEPS) == KINDS


def test_a_photo_without_an_answer_is_named(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of classes that is finite on grey images: no class is invented where it gives NaN."""

    def sometimes(images):
        return torch.where((images.mean((1, 2, 3)) < -0.9)[:, None], torch.nan, decide(images))

    decision = from_callable(sometimes, "classes", OUTPUTS, name="mine:net")
    monkeypatch.setattr(explainer.Explainer, "load", lambda *_: tiny_explainer(tiny_params(steps=3), decision))
    black, out = photos / "black.png", photos.parent / "out"
    Image.new("RGB", (64, 32)).save(black)
    for _ in range(2):  # computed, and read from the folder
        result = CliRunner().invoke(cli.app, ["explain", str(black), str(photos / "photo_0.png"), "--out", str(out)])
        assert result.exit_code == 0, result.output
        _, first, second, *_ = result.stdout.splitlines()
        words = f"the model mine:net gives NaN or infinity for {black}: there is no decision to explain"
        assert first.startswith("black.png ") and re.search(f"  failed.*{re.escape(words)}$", first)
        assert second.startswith("photo_0.png  ") and "nan" not in second
    record = json.loads((out / "pictures/0000_black/record.json").read_text(), parse_constant=pytest.fail)
    (row,) = record["explanations"]
    assert row["verdict"] == "failed" and row["score_before"] is None and row["from_class"] == "undecided"


def test_a_class_that_wins_already_is_not_searched(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decision = from_callable(decide, "classes", OUTPUTS, name="mine:net")
    tiny = tiny_explainer(tiny_params(steps=3), decision)
    (record,) = tiny.explain(road_images(1), Request(["stop"]))  # a red light
    assert record.verdict == "already so" and record.words == "nothing changed" and not record.step
    assert (record.counterfactual == record.query).all() and record.score_before == record.score_after


def test_a_segmentation_model_asks_for_a_class_at_once(monkeypatch: pytest.MonkeyPatch, capsys, photos: Path) -> None:
    def labels(images):
        return torch.cat([images, images.mean(1, keepdim=True)], 1)

    decision = from_callable(labels, "segmentation", OUTPUTS, name="mine:labels")
    monkeypatch.setattr(explainer.Explainer, "load", lambda *_: tiny_explainer(tiny_params(), decision))
    monkeypatch.setattr(explainer.Explainer, "invert", pytest.fail)
    assert run(monkeypatch, "explain", photos, "--out", photos / "out") == 1
    check_error(capsys, "no output to change: name one of forward, stop, left, right")


def test_ctrl_c_keeps_the_inversions_and_says_so(photos: Path, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(explainer.Explainer, "search", interrupt)
        assert run(monkeypatch, "explain", photos, "--out", photos.parent / "out", "--attribute", "stop") == 130
    assert "0 explained and 3 inverted images: the same command goes on" in capsys.readouterr().err
    monkeypatch.setattr(explainer.Explainer, "invert", pytest.fail)
    assert run(monkeypatch, "explain", photos, "--out", photos.parent / "out", "--attribute", "stop") == 0


def test_help_groups_the_options() -> None:
    lines = CliRunner().invoke(cli.app, ["explain", "--help"]).output.splitlines()
    headings = [line for line in lines if line.endswith(":") and not line.startswith((" ", "Usage"))]
    names = ["Arguments", "What to explain", "What may change", "How to search", "What to write", "Models", "Options"]
    assert headings == [f"{name}:" for name in names]
