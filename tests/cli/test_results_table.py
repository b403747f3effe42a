"""The printed table and JSON of explanations that are read one at a time."""

from __future__ import annotations

import dataclasses
import gc
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from worlds.copying import copying_explainer

from blobex.cli import results_table
from blobex.explain.explanation import Explanation
from blobex.explain.record_files import as_json, finite


def explanations(count: int) -> Iterator[Explanation]:
    (record,) = copying_explainer().template
    for number in range(count):
        yield dataclasses.replace(record, image=f"photos/{number}.png", doubt="" if number else "the image is dark")


def living() -> int:
    return sum(type(each) is Explanation for each in gc.get_objects())


@pytest.mark.parametrize("count", [1, 3])
def test_json_is_that_of_one_object(tmp_path: Path, capsys: pytest.CaptureFixture, count: int) -> None:
    records = list(explanations(count))
    results_table.print_json(iter(records), tmp_path)
    content = {
        "explanations": [as_json(record) for record in records],
        "flipped": sum(record.verdict == "flipped" for record in records),
        "out": str(tmp_path),
        "snapshots": [],
    }
    assert capsys.readouterr().out == json.dumps(finite(content), indent=2) + "\n"


def test_no_explanations_are_an_empty_list(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    results_table.print_json(iter(()), tmp_path)
    assert json.loads(capsys.readouterr().out)["explanations"] == []


def test_table_keeps_no_explanation(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven explanations in tables of three, with one count of all."""
    monkeypatch.setattr(results_table, "ROWS", 3)
    first = next(explanations(1))
    alive = list[int]()

    def counted() -> Iterator[Explanation]:
        for record in explanations(7):
            alive.append(living())
            yield record

    results_table.print_results(counted(), tmp_path, "{:.2f}", verbose=False)
    lines = capsys.readouterr().out.splitlines()
    assert [number for number, line in enumerate(lines) if line.startswith("image ")] == [0, 4, 8]
    assert [line.split()[0] for line in (*lines[1:4], *lines[5:8], lines[9])] == [f"{n}.png" for n in range(7)]
    flipped = 7 * (first.verdict == "flipped")
    assert lines[10].startswith(f"{flipped} of 7 flipped")
    assert lines[11] == "photos/0.png is not to be trusted: the image is dark"
    assert max(alive) <= alive[0] + 1
