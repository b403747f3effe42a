"""The table of believable images agrees with the metrics files that it is read from."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from imports import ROOT

from blobex.core.errors import BlobexError
from blobex.report.believable import ROWS, believable_lines, main, markdown

RECT = {"ghost": 0.69321, "ghost_low": 0.6, "ghost_high": 0.75, "ghost_count": 69.0, "fd_witness": 1.5}
RECT |= {"witness_flip": 0.9, "witness_flip_low": 0.805, "witness_flip_high": 1.0, "witness_flip_count": 128.0}
PIXELS = {f"plain_pixels_witness_flip{end}": value for end, value in (("", 0.01), ("_low", 0.0), ("_high", 0.04))}


def test_values_have_interval_and_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for stage, setup, measures in (("evaluate", "rect", RECT), ("truth", "square", PIXELS)):
        (tmp_path / stage / setup).mkdir(parents=True)
        (tmp_path / stage / setup / "metrics.json").write_text(json.dumps(measures))
    main(tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["| measure | `rect` | `square` | goal |", "|---|---|---|---|"]
    assert "| `witness_flip`, basic | 90% [80, 100], n = 128 | - | 97% |" in lines
    assert "| `witness_flip` of the pixel attack | - | 1% [0, 4] | near 0 |" in lines
    assert any(line.startswith("| `ghost`, basic") and "| 0.693 [0.6, 0.75], n = 69 |" in line for line in lines)
    assert any("| 1.5 [-, -] | - | 3 times `fd_witness_real` |" in line for line in lines)
    assert len(lines) == 6 and all(line.count("|") == 5 for line in lines)


def test_nothing_measured_is_said(tmp_path: Path) -> None:
    assert believable_lines({"evaluate": {"rect": {"flips": 1.0}}}) == []
    command = [sys.executable, "-m", "blobex.report.believable", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert run.returncode == 1 and run.stderr.startswith("blobex: nothing in") and "dvc repro evaluate" in run.stderr
    with pytest.raises(BlobexError):
        main(tmp_path / "missing")


def test_rows_are_of_stages_that_exist() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert {row.stage for row in ROWS} <= set(stages)
    assert len({(row.stage, row.name) for row in ROWS}) == len(ROWS)
    assert markdown([]).startswith("| measure")
