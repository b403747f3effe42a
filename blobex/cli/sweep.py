"""`blobex sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

sweeps = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@sweeps.callback()
def sweep() -> None:
    """Tune values that depend on each other: the search's (cf), the inversion's (invert), the encoder's (encoder)."""


SweptSetup = Annotated[str, typer.Option(help="Shape of the pictures: square or rect.")]
Trials = Annotated[int | None, typer.Option(min=1, help="In all, with those of earlier calls.")]
Workers = Annotated[int, typer.Option(min=1, help="Processes that try at the same time; they share the cores.")]
StudyName = Annotated[
    str | None, typer.Option("--name", help="Of the study; one that was stopped goes on. The setup's, if not given.")
]
Storage = Annotated[
    str | None,
    typer.Option(
        envvar="BLOBEX_STORAGE",  # a password on the command line is there for all to read
        help="URL of a database, for workers on several machines; else a file beside the reports.",
    ),
]
SweptModels = Annotated[Path, typer.Option(help="Folder of the trained networks.")]
SweptParams = Annotated[Path, typer.Option(help="Parameter file; sweep_<kind> says where to look, and for what.")]


SWEEPS = {
    "cf": "Tune explain.<setup>: the smallest change that flips decisions often enough, and soon enough.",
    "invert": "Tune invert.<setup>: the nearest reconstruction that is decided as the photo is, and soon enough.",
    "encoder": "Tune encoder_pretrain.training, by short trainings.",
}


def _add_sweep(kind: str) -> None:
    @sweeps.command(kind, help=SWEEPS[kind])
    def command(
        setup: SweptSetup = "rect",
        trials: Trials = None,
        workers: Workers = 1,
        name: StudyName = None,
        storage: Storage = None,
        models: SweptModels = Path("models"),
        params: SweptParams = Path("params.yaml"),
    ) -> None:
        from blobex.sweeps.compare import table
        from blobex.sweeps.tasks import run_sweep

        best, comparison = run_sweep(kind, setup, name or setup, trials, workers, storage, models, params)
        print(table(comparison))
        print(best)


for _kind in SWEEPS:
    _add_sweep(_kind)


@sweeps.command("apply")
def sweep_apply(
    name: Annotated[str, typer.Argument(help="Of the study: the setup's, if it was given none.")],
    kind: Annotated[str, typer.Option(help="What was tuned: cf, invert or encoder.")] = "cf",
    params: Annotated[Path, typer.Option(help="Parameter file to write to.")] = Path("params.yaml"),
    dvc: Annotated[bool, typer.Option("--dvc", help="Write nothing: print the words for `dvc exp run`.")] = False,
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
