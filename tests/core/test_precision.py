"""The precision that a machine's processor is found to be fast in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from blobex.core import precision
from blobex.core.device import resolve_precision
from blobex.core.precision import cpu_precision, measured_ratio


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "blobex"


def in_a_new_process(monkeypatch: pytest.MonkeyPatch, ratio: float) -> str:
    """Return the answer of a process that would measure `ratio`."""
    cpu_precision.cache_clear()
    monkeypatch.setattr(precision, "measured_ratio", lambda: ratio)
    try:
        return resolve_precision("auto", torch.device("cpu"))
    finally:
        cpu_precision.cache_clear()


@pytest.mark.parametrize(("ratio", "answer"), [(0.2, "float32"), (1.19, "float32"), (1.2, "bfloat16"), (3, "bfloat16")])
def test_bfloat16_must_be_clearly_faster_and_the_first_answer_stays(monkeypatch, folder, ratio, answer) -> None:
    assert in_a_new_process(monkeypatch, ratio) == answer
    (file,) = folder.iterdir()
    assert json.loads(file.read_text()) == {"precision": answer, "ratio": ratio}
    assert in_a_new_process(monkeypatch, 1.4 - ratio) == answer


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"precision": "float16"}'])
def test_a_damaged_file_is_measured_again(monkeypatch, folder, damage) -> None:
    in_a_new_process(monkeypatch, 3)
    (file,) = folder.iterdir()
    file.write_text(damage)
    assert in_a_new_process(monkeypatch, 1) == "float32"
    assert in_a_new_process(monkeypatch, 3) == "float32"


def test_other_processors_and_versions_are_measured_themselves(monkeypatch, folder) -> None:
    assert in_a_new_process(monkeypatch, 3) == "bfloat16"
    monkeypatch.setattr(torch, "__version__", "2.99")
    assert in_a_new_process(monkeypatch, 1) == "float32"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    assert in_a_new_process(monkeypatch, 3) == "bfloat16"


@pytest.mark.parametrize(
    ("able", "expected"),
    [({}, "float32"), ({"avx512_bf16": True}, "bfloat16"), ({"amx_bf16": True, "avx512_bf16": False}, "bfloat16")],
)
def test_instructions_decide_where_nothing_can_be_kept(monkeypatch, tmp_path, able, expected) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    for ratio in (1, 3):
        assert in_a_new_process(monkeypatch, ratio) == expected


def test_measuring_leaves_threads_and_random_numbers_alone() -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    assert measured_ratio() > 0
    assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), state)
