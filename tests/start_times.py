"""Measure how long starts take: processor and wall-clock time of whole processes, the median of several runs.

    python tests/start_times.py [RUNS] # in the project's folder, after dvc pull

A busy machine changes the processor time less than the time on the clock. tests/house/test_loaded_modules.py holds what
the starts may load.
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FIRST_BAR = """
import os, sys
from blobex.cli import progress_bar
from blobex.cli.main import main
from blobex.core.progress import listening
def until_the_first_phase(*_):
    return listening(lambda phase: os._exit(0))
progress_bar.shown_progress = until_the_first_phase
sys.argv = ["blobex", "explain", {photos!r}, "--attribute", "stop", "--out", {out!r}]
main()
"""


def main(runs: int) -> None:
    python = [sys.executable]
    with tempfile.TemporaryDirectory() as folder:
        photos, out = f"{folder}/photos", f"{folder}/out"
        subprocess.run([*python, "-m", "blobex", "scenes", photos], check=True, stdout=subprocess.DEVNULL)
        first_bar = FIRST_BAR.format(photos=photos, out=out)
        print("start | processor s | wall-clock s")
        for name, command in {
            "import blobex": [*python, "-c", "import blobex"],
            "blobex --help": [*python, "-m", "blobex", "--help"],
            "import torch": [*python, "-c", "import torch"],
            "blobex explain to its first progress bar": [*python, "-c", first_bar],
            "dvc status": [str(Path(sys.executable).with_name("dvc")), "status", "--quiet"],
        }.items():
            measured = [seconds(command) for _ in range(runs + 1)][1:]  # the first run fills caches
            print(f"{name} | " + " | ".join(f"{statistics.median(kind):.2f}" for kind in zip(*measured, strict=True)))


def seconds(command: list[str]) -> tuple[float, float]:
    """Processor and wall-clock seconds of a command."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, wall


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
