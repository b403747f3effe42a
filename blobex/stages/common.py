"""Command line, folders and metrics files of the stages."""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NoReturn

from blobex.config.params import Params
from blobex.config.read import load_params
from blobex.core.code_state import check_stage
from blobex.core.errors import BlobexError, print_any_text, sentence
from blobex.core.files import write_text
from blobex.core.project import enter_project
from blobex.tracking.tracker import Tracker

MODELS = Path("models")
DATA = Path("data")
REPORTS = Path("reports")
INTERVAL = ("_low", "_high", "_count")  # endings of measures that belong to a mean
STOPPED = 130  # exit code after Ctrl-C, as in shells


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BlobexError(f"{message}: see --help")


def run_stage(main: Callable[..., None], *names: str, arguments: Sequence[str] | None = None) -> None:
    """Call `main(params, *values)` in the project's folder, with params.yaml and one command-line argument per name.

    The stage does not run if its code file is out of date. A BlobexError or OSError becomes one line on stderr and exit
    code 1; Ctrl-C, and SIGTERM while a network is trained, exit code 130.
    """
    print_any_text()
    parser = _Parser(description=main.__doc__)
    for name in names:
        parser.add_argument(name)
    try:
        values = vars(parser.parse_args(arguments))
        enter_project()
        check_stage(Path(inspect.getfile(main)).stem)
        params = load_params()
        main(params.for_setup(values["setup"]) if "setup" in values else params, *values.values())
    except (BlobexError, OSError) as error:
        sys.exit(f"blobex: {sentence(error)}")
    except KeyboardInterrupt:
        print("blobex: stopped; the same command goes on where it was", file=sys.stderr)
        sys.exit(STOPPED)


def checkpoints(folder: Path) -> Path:
    """Return the folder of a stage's unfinished training; DVC does not remove it, so training can resume."""
    return folder / "checkpoints"


def fid_stats(params: Params, setup: str) -> Path:
    """Return the file of the statistics of real images; its name is lower-cased."""
    return DATA / "fid_stats" / setup / f"{params.fid_stats.name.lower()}.npz"


def inversions(setup: str) -> Path:
    """Return the file of inverted images."""
    return DATA / "invert" / setup / "inversions.pt"


def explain_results(setup: str, variant: str = "basic") -> Path:
    """Return the folder of explanations, with their snapshots and table."""
    return REPORTS / "explain" / setup / variant / "results"


def write_metrics(folder: Path, measures: Mapping[str, float], tracker: Tracker, headlines: Sequence[str] = ()) -> None:
    """Write metrics.json, and track its numbers, the config and the weights beside it.

    With `headlines`, metrics.json has only these of the measures, which are compared between runs; measures.json has
    all.
    """
    if headlines:
        write_text(folder / "measures.json", json.dumps(dict(measures), indent=2) + "\n")
    metrics = headline(measures, headlines) if headlines else dict(measures)
    write_text(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    tracker.log_metrics(metrics)
    for name in ("metrics.json", "measures.json", "config.yaml", "weights.safetensors"):
        if (folder / name).exists():
            tracker.log_artifact(folder / name)


def headline(measures: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    """Return the named ones of the measures, in the order of the names; a name may end in *.

    >>> headline({"l2": 0.5, "pd_parser": 1.0, "pd_parser_low": 0.5, "flip_rate": 1.0}, ["flip_rate", "pd_*", "cout"])
    {'flip_rate': 1.0, 'pd_parser': 1.0}
    """
    means = [name for name in measures if not name.endswith(INTERVAL)]
    return {name: measures[name] for pattern in names for name in means if fnmatchcase(name, pattern)}
