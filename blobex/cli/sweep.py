"""Commands of `blobex sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from blobex.cli.options import Models, Setup
from blobex.cli.project import ProjectCommand

sweeps = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@sweeps.callback()
def sweep() -> None:
    """Tune settings that depend on each other: of the search (cf), the inversion (invert) or the encoder (encoder)."""


Trials = Annotated[int | None, Option(min=1, help="Number of trials, those of earlier calls included.")]
Workers = Annotated[int, Option(min=1, help="Processes that run trials at the same time; they share the cores.")]
StudyName = Annotated[
    str | None, Option("--name", help="Name of the study; an existing one is continued. Default: the setup.")
]
Storage = Annotated[
    str | None,
    Option(
        envvar="BLOBEX_STORAGE",  # a command line would show the password to everybody
        help="URL of a database, for workers on several machines. Default: a file beside the reports.",
    ),
]
SweptParams = Annotated[Path, Option(help="Parameter file; sweep_<kind> holds the search space and limits.")]


SWEEPS = {
    "cf": "Tune explain.<setup>: the smallest change that flips decisions often enough and soon enough.",
    "invert": "Tune invert.<setup>: the nearest reconstruction that keeps the decision and is soon enough.",
    "encoder": "Tune encoder_pretrain.training by short trainings.",
}


def _add_sweep(kind: str) -> None:
    @sweeps.command(kind, help=SWEEPS[kind], cls=ProjectCommand)
    def command(
        setup: Setup = "rect",
        trials: Trials = None,
        workers: Workers = 1,
        name: StudyName = None,
        storage: Storage = None,
        models: Models = Path("models"),
        params: SweptParams = Path("params.yaml"),
    ) -> None:
        from blobex.sweeps.best import table
        from blobex.sweeps.launch import run_sweep

        best, comparison = run_sweep(kind, setup, name or setup, trials, workers, storage, models, params)
        print(table(comparison))
        print(best)


for _kind in SWEEPS:
    _add_sweep(_kind)


@sweeps.command("apply", cls=ProjectCommand)
def sweep_apply(
    name: Annotated[str, Argument(help="Name of the study; the setup, if it was given none.")],
    kind: Annotated[str, Option(help="Kind of the sweep: cf, invert or encoder.")] = "cf",
    params: Annotated[Path, Option(help="Parameter file to write to.")] = Path("params.yaml"),
    dvc: Annotated[bool, Option("--dvc", help="Write nothing; print the options for `dvc exp run`.")] = False,
) -> None:
    """Write a study's best values into the parameter file; comments stay."""
    from blobex.sweeps.best import BEST, apply, read_best
    from blobex.sweeps.storage import folder_of

    best = folder_of(kind, name) / BEST
    if dvc:
        print(" ".join(f"-S {key}={value}" for key, value in read_best(best).items()))
        return
    for key, (before, after) in apply(best, params).items():
        print(f"{key}: {before} -> {after}")
