"""Whatever is wrong with the input: one sentence, a non-zero exit, no traceback, and not a file changed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bad_input import arguments, config, labels, networks, pictures, results
from bad_input.world import Case, build, copied, deadline, run, tree
from blobex.explain.results_folder import read_results

KINDS = {
    "config": config.CASES,
    "pictures": pictures.CASES,
    "labels": labels.CASES,
    "networks": networks.CASES,
    "results": results.CASES,
    "arguments": arguments.CASES,
}
CASES = [case for cases in KINDS.values() for case in cases]
LOADING = ("blobex explain", "blobex blobs", "stage explain")  # networks first, which takes time
EACH, LOADS = 4, 8  # one in so many cases is tested by default, and the others with those that are slow


def tiered() -> list[Any]:
    """The cases, marked as slow or not."""
    loading = [case for case in CASES if case.command.startswith(LOADING)]
    others = [case for case in CASES if not case.command.startswith(LOADING)]
    quick = {case.name for case in (*loading[::LOADS], *others[::EACH])}
    return [pytest.param(case, id=case.name, marks=() if case.name in quick else pytest.mark.slow) for case in CASES]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("world") / "whole")


def test_the_table_is_long_and_names_no_case_twice() -> None:
    assert len(CASES) >= 150 and len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", tiered())
def test_bad_input_is_one_sentence(
    case: Case, world: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    folder = copied(world, tmp_path / "world")
    case.harm(folder)
    before = tree(tmp_path)
    with deadline(10):
        code, message = run(case.command, folder)
    printed = capfd.readouterr()
    told = printed.out + printed.err + (f"{message}\n" if message else "")
    assert code in (1, 2), told
    assert told.startswith("blobex: ") and told.count("\n") == 1 and len(told) < 1000, told
    assert "Traceback" not in told and "secret" not in told, told
    assert all(words in told for words in case.words), told
    assert tree(tmp_path) == before


def test_what_a_data_set_lacks_is_listed(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The list is what was asked for; the error is one sentence beside it."""
    folder = copied(world, tmp_path / "world")
    shutil.rmtree(folder / "data/scenes/bdd100k/labels/drivable")
    assert run("blobex data", folder) == (1, "")
    printed = capsys.readouterr()
    assert "bdd100k_drivable_labels_trainval.zip" in printed.out and printed.out.count("\n") == 1
    assert printed.err == "blobex: data/scenes lacks 1 of 9 parts: unpack those listed above\n"


def test_odd_names_of_photos_are_fine(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A long one, bytes that are no UTF-8, and a line break."""
    folder = copied(world, tmp_path / "world")
    odd = tmp_path / "odd"
    odd.mkdir()
    for name in (b"x" * 250 + b".png", b"f\xfcr.png", b"a\nb.png"):
        shutil.copy(folder / "photo.png", os.path.join(os.fsencode(odd), name))  # noqa: PTH118
    assert run(f"blobex explain {odd} --out {tmp_path / 'out'} --attribute stop", folder) == (0, "")
    assert run(f"blobex blobs {odd} --out {tmp_path / 'maps'}", folder) == (0, "")
    assert len(read_results(tmp_path / "out")) == len(list((tmp_path / "maps").glob("*.json"))) == 3
    capsys.readouterr().out.encode()  # nothing that cannot be printed


@pytest.mark.slow
def test_pictures_of_up_to_100_megapixels_take_bounded_memory(tmp_path: Path) -> None:
    """The largest allowed image is decoded in a process limited to one gigabyte more than Python needs."""
    Image.new("L", (10_000, 10_000)).save(tmp_path / "large.png", compress_level=1)
    code = (
        "import resource; from blobex.datasets.images import load_image;"
        "resource.setrlimit(resource.RLIMIT_DATA, (2 * 2**30, 2 * 2**30));"
        f"assert load_image({str(tmp_path / 'large.png')!r}).shape == (10_000, 10_000, 3)"
    )
    usual = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=usual)
