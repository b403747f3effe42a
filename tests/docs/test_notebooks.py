"""Notebooks: their stored outputs, and their execution with the reference models."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MAX_BYTES = 1_500_000
MACHINE_PATH = re.compile(r"(?<![\w.-])/(home|root|tmp|work|var|opt|usr|mnt|Users)/")


def code_cells(path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def output_text(output):
    """Return all text of an output, without its images."""
    data = [str(value) for kind, value in output.get("data", {}).items() if "image" not in kind]
    return "\n".join([output.get("text", ""), *output.get("traceback", []), *data])


def image_counts(cells):
    """Return the number of images in the outputs of each cell."""
    return [sum("image" in kind for output in cell.outputs for kind in output.get("data", {})) for cell in cells]


def test_there_are_two_notebooks():
    assert [path.name for path in NOTEBOOKS] == ["compare.ipynb", "demo.ipynb"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_outputs_are_complete_small_and_name_no_path_of_a_machine(path):
    assert path.stat().st_size < MAX_BYTES
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert sum(image_counts(cells)) >= 4
    for text in [*map(output_text, outputs), *(cell.source for cell in cells)]:
        assert not MACHINE_PATH.search(text), text
        assert str(ROOT) not in text


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_with_the_reference_models(path, tmp_path):
    for name in ("params.yaml", "dvc.yaml", "dvc.lock", ".dvc/config"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "models").mkdir()
    (tmp_path / "models/store").symlink_to(ROOT / "models/store")
    (tmp_path / "notebooks").mkdir()
    notebook = tmp_path / "notebooks" / path.name
    cleared = nbformat.read(path, as_version=4)
    for cell in cleared.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(cleared, notebook)
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
    assert image_counts(after) == image_counts(before)
    assert not [output for cell in after for output in cell.outputs if output.output_type == "error"]
