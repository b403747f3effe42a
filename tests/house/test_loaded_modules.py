"""What a start may load: the names of modules, which time nothing and hold on any machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from worlds.tiny_models import save_models, smooth_images

from blobex.datasets.images import to_array, write_png

ROOT = Path(__file__).parents[2]
REPORT = """
import json, os
def report():
    names = sorted({name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names))
    slow = [name for name in ("torch", "torch._dynamo", "torch._inductor") if name in sys.modules]
    os.write(1, json.dumps([names, slow]).encode())
    os._exit(0)
"""
HELP = """
sys.argv = ["blobex", "--help"]
from blobex.cli.main import app
try:
    app(prog_name="blobex")
finally:
    sys.stdout.flush()
    report()
"""
EXPLAIN = """
import torch
before = set(sys.modules)
import contextlib
from blobex.cli import progress_bar
from blobex.cli.main import main
from blobex.core.progress import listening
@contextlib.contextmanager
def until_the_first_phase(*_):
    with listening(lambda phase: report()):
        yield
progress_bar.shown_progress = until_the_first_phase
sys.argv = ["blobex", "explain", "photo.png", "--attribute", "stop", "--out", "out"]
main()
"""
COMMANDS = {"annotated_doc", "blobex", "colorama", "shellingham", "typer", "typing_extensions"}
NETWORKS = {  # beside what `import torch` loads
    *("PIL", "annotated_types", "charset_normalizer", "cloudpickle", "numpy", "pyarrow", "pydantic", "pydantic_core"),
    *("safetensors", "torch", "tqdm", "typing_inspection", "yaml"),
}


def loaded(code: str, folder: Path = ROOT) -> tuple[set[str], list[str]]:
    """Return the packages that a new process loads until it reports, without the standard library, and slow modules."""
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": os.environ["PATH"]}
    code = f"import sys; before = set(sys.modules){REPORT}{code}"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.stdout, done.stderr
    names, slow = json.loads(done.stdout.splitlines()[-1])
    return {name for name in names if not name.startswith("_")}, slow


def test_the_package_loads_nothing() -> None:
    assert loaded("import blobex; report()") == ({"blobex"}, [])


def test_help_loads_the_command_line() -> None:
    names, slow = loaded(HELP)
    assert names <= COMMANDS and not slow


def test_explain_loads_no_more_than_its_networks_need_before_the_first_image(tmp_path: Path) -> None:
    save_models(tmp_path)
    write_png(tmp_path / "photo.png", to_array(smooth_images(1)[0]))
    names, slow = loaded(EXPLAIN, tmp_path)
    assert names <= COMMANDS | NETWORKS
    assert slow == ["torch"]
