"""The notebooks: what is stored of their last run, and that they run again from the stored weights."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
STORED = sorted((ROOT / "notebooks").glob("*.ipynb"))
LARGEST = 1_500_000  # bytes
PLACE = re.compile(r"(?<![\w.-])/(home|root|tmp|work|var|opt|usr|mnt|Users)/")  # of the machine that ran it


def code_cells(path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def texts(output):
    """What an output says, in any form but a picture."""
    told = [output.get("text", ""), *output.get("traceback", [])]
    return "\n".join(told + [str(each) for kind, each in output.get("data", {}).items() if "image" not in kind])


def pictures(cells):
    """How many pictures each cell shows."""
    return [sum("image" in kind for output in cell.outputs for kind in output.get("data", {})) for cell in cells]


def test_both_notebooks_are_stored():
    assert [path.name for path in STORED] == ["compare.ipynb", "demo.ipynb"]


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_stored_notebook_is_whole_small_and_of_no_machine(path):
    assert path.stat().st_size < LARGEST
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert sum(pictures(cells)) >= 4
    for text in [*map(texts, outputs), *(cell.source for cell in cells)]:
        assert not PLACE.search(text), text
        assert str(ROOT) not in text


@pytest.mark.slow
@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_notebook_runs_from_the_stored_weights(path, tmp_path):
    for name in ("params.yaml", "dvc.yaml", "dvc.lock", ".dvc/config"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "models").mkdir()
    (tmp_path / "models/store").symlink_to(ROOT / "models/store")
    (tmp_path / "notebooks").mkdir()
    notebook = tmp_path / "notebooks" / path.name
    empty = nbformat.read(path, as_version=4)
    for cell in empty.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(empty, notebook)
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    for command in (
        ["git", "init", "--quiet"],
        ["dvc", "pull", "--quiet", "--allow-missing"],
        ["jupyter", "execute", "--inplace", "--timeout=1800", str(notebook)],
    ):
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    before, after = code_cells(path), code_cells(notebook)
    assert [cell.execution_count for cell in after] == [cell.execution_count for cell in before]
    assert pictures(after) == pictures(before)
    assert not [output for cell in after for output in cell.outputs if output.output_type == "error"]
