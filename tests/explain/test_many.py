"""Many images: the same results as of few, in memory and time that do not depend on how many there are."""

from __future__ import annotations

import gc
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image
from worlds.copying import REQUEST, copying_explainer
from worlds.processes import file_contents
from worlds.tiny_world import road_images, tiny_explainer, tiny_params

from blobex.core.device import Ranks
from blobex.core.errors import BlobexError
from blobex.explain import many, results_folder
from blobex.explain.explainer import Explainer
from blobex.explain.explanation import Explanation
from blobex.explain.many import explain_into
from blobex.explain.overviews import read_table
from blobex.explain.request import Output
from blobex.explain.results_folder import ResultsFolder, read_results


@pytest.fixture
def explainer(monkeypatch: pytest.MonkeyPatch) -> Explainer:
    """An explainer that decodes two batches of four images at once."""
    monkeypatch.setattr(many, "BATCHES", 2)
    return copying_explainer()


def photos(folder: Path, count: int) -> Path:
    """Write a folder of `count` images."""
    folder.mkdir()
    for number in range(count):
        Image.fromarray(road_images(8)[number % 8]).save(folder / f"{number:03d}.png")
    return folder


def test_folder_is_that_of_a_few_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with a real search, whose batches are others."""
    monkeypatch.setattr(many, "BATCHES", 1)
    given, explainer = [photos(tmp_path / "photos", 5), road_images(1)[0]], tiny_explainer(tiny_params(steps=1))
    expected = explainer.explain(given, REQUEST, Output(tmp_path / "few", published=True))
    found = explain_into(explainer, given, REQUEST, Output(tmp_path / "many", published=True))
    assert list(found) == expected and len(expected) == 6
    assert file_contents(tmp_path / "many") == file_contents(tmp_path / "few")


def test_a_damaged_file_shifts_no_other(tmp_path: Path, explainer: Explainer, capsys: pytest.CaptureFixture) -> None:
    folder = photos(tmp_path / "photos", 11)
    whole = (folder / "004.png").read_bytes()
    (folder / "004.png").write_bytes(whole[:60])
    records = list(explain_into(explainer, folder, REQUEST, Output(tmp_path / "out")))
    assert capsys.readouterr().err.count("skipped: ") == 1
    assert [Path(record.image).stem for record in records] == [f"{n:03d}" for n in range(11) if n != 4]
    names = sorted(path.name for path in (tmp_path / "out/pictures").iterdir())
    assert names == [f"{n:04d}_{n:03d}" for n in range(11) if n != 4]
    assert read_results(tmp_path / "out") == records == explainer.explain(folder, REQUEST, tmp_path / "out")
    (folder / "004.png").write_bytes(whole)
    written = []
    write = ResultsFolder.write
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ResultsFolder, "write", lambda self, n, *rest: (written.append(n), write(self, n, *rest))[1])
        assert len(list(explain_into(explainer, folder, REQUEST, Output(tmp_path / "out")))) == 11
    assert written == [4]


def test_damaged_folders_and_files_are_refused(tmp_path: Path, explainer: Explainer) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/damaged.png").write_bytes(b"no image")
    good = photos(tmp_path / "good", 1) / "000.png"
    for given, words in [
        (tmp_path / "photos", "none of the 1 images in .*photos can be read"),
        ([good, tmp_path / "photos/damaged.png"], "damaged.png is not an image"),
        ([good, tmp_path / "missing.png"], "there is no image .*missing.png"),
    ]:
        with pytest.raises(BlobexError, match=words):
            explain_into(explainer, given, REQUEST, Output(tmp_path / "out"))
        assert not (tmp_path / "out").exists()


def test_table_is_missing_until_all_is_explained(
    tmp_path: Path, explainer: Explainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = photos(tmp_path / "photos", 3)
    explain_into(explainer, folder, REQUEST, Output(tmp_path / "out"))
    shutil.copy(folder / "000.png", folder / "003.png")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ResultsFolder, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        explain_into(explainer, folder, REQUEST, Output(tmp_path / "out"))
    assert not (tmp_path / "out/explanations.parquet").exists()
    explain_into(explainer, folder, REQUEST, Output(tmp_path / "out"))
    assert len(read_table(tmp_path / "out")) == 4


def test_processes_share_images_and_overviews(
    tmp_path: Path, explainer: Explainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes one after the other, of which the second gives its names to the first."""
    folder, second, first = photos(tmp_path / "photos", 35), Ranks(1, 2), Ranks(0, 2)
    expected = list(explain_into(explainer, folder, REQUEST, Output(tmp_path / "alone")))
    shown = {n: f"{folder}/{n:03d}.png" for n in range(35)}
    monkeypatch.setattr(Ranks, "gather", lambda self, items: sorted(shown.items()) if items else [])
    monkeypatch.setattr(ResultsFolder, "read", lambda *_: iter(()))  # the other's are not there yet
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(many.ResultsFolder, "finish", lambda *_: None)
        assert explain_into(explainer, folder, REQUEST, Output(tmp_path / "out"), first) is not None
    monkeypatch.undo()
    monkeypatch.setattr(Ranks, "gather", lambda self, items: sorted(shown.items()) if items else [])
    assert list(explain_into(explainer, folder, REQUEST, Output(tmp_path / "out"), second)) == []
    assert sorted(path.name for path in (tmp_path / "out").glob("snapshot*")) == ["snapshot_1.png"]
    assert list(explain_into(explainer, folder, REQUEST, Output(tmp_path / "out"), first)) == expected


@pytest.mark.parametrize("resumed", [False, True])
def test_memory_does_not_grow_with_the_images(
    tmp_path: Path, explainer: Explainer, monkeypatch: pytest.MonkeyPatch, resumed: bool
) -> None:
    """The greatest number of explanations that exist at once is that of a batch and an overview."""
    folder, alive = photos(tmp_path / "photos", 48), list[int]()
    if resumed:
        explain_into(explainer, folder, REQUEST, Output(tmp_path / "out"))

    def living() -> int:
        return sum(type(each) is Explanation for each in gc.get_objects())  # isinstance would ask proxies

    def counting(self: ResultsFolder, number: int, name: str, inner=ResultsFolder._folder) -> Path:
        if number % 12 == 11:
            alive.append(living())
        return inner(self, number, name)

    monkeypatch.setattr(ResultsFolder, "_folder", counting)
    gc.collect()
    before = living()
    assert sum(1 for _ in explain_into(explainer, folder, REQUEST, Output(tmp_path / "out"))) == 48
    assert len(alive) > 12 and 1 <= max(alive) - before <= 16 + 4


@contextmanager
def opened_files() -> Iterator[list[str]]:
    """Collect the names of files and folders that Python opens or lists."""
    opened, listening = list[str](), [True]

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if listening and event in ("open", "os.listdir", "os.scandir", "os.rename", "os.remove", "os.mkdir"):
            opened.append(f"{event} {arguments[0]}")

    sys.addaudithook(hook)  # stays until Python ends
    try:
        yield opened
    finally:
        listening.clear()


def test_work_beside_the_search_is_linear(
    tmp_path: Path, explainer: Explainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accesses to files grow by the same number with every 8 images: new, finished, and in the middle."""
    monkeypatch.setattr(results_folder, "IMAGES_PER_FILE", 8)
    first, again, half = [], [], []
    for count in (8, 16, 24):
        folder, out = photos(tmp_path / f"photos_{count}", count), tmp_path / f"out_{count}"
        for counts in (first, again, half):
            if counts is half:
                for path in sorted((out / "pictures").iterdir())[::2]:
                    shutil.rmtree(path)
            with opened_files() as opened:
                explain_into(explainer, folder, REQUEST, Output(out))
            counts.append(len([name for name in opened if str(tmp_path) in name]))
    for counts in (first, again, half):
        assert counts[1] - counts[0] == counts[2] - counts[1] > 8
