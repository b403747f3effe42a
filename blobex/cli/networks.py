"""Commands `blobex import`, `blobex external` and `blobex release`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blobex.cli.options import Models, ParamsFile, Setup


def import_weights(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A published PyTorch file.")],
    kind: Annotated[str, typer.Option("--as", help="Network to take from it: generator, encoder or decision.")],
    setup: Setup,
    variant: Annotated[str, typer.Option(help="Name of a decision model: plain or biased.")] = "plain",
    seed: Annotated[int | None, typer.Option(min=0, max=2**31 - 1, help="Seed of the latents of the mean w.")] = None,
    models: Models = Path("models"),
    params: ParamsFile = Path("params.yaml"),
) -> None:
    """Import published weights. No code in FILE is run, and nothing is written if a check fails."""
    from blobex.config.read import load_params
    from blobex.networks.import_weights import import_file

    folder, provenance = import_file(file, kind, setup, load_params(params), models, variant, seed)
    print(folder)
    for name, value in provenance.items():
        print(f"  {name}: {', '.join(value) or 'nothing' if isinstance(value, list) else value}")


def release(
    setup: Annotated[str, typer.Option(help="Shape of the images: square, rect or all.")] = "rect",
    to: Annotated[Path, typer.Option(help="Folder for the releases, one subfolder each.")] = Path("models/release"),
    name: Annotated[str, typer.Option(help="Name of the model in MLflow; the setup is appended.")] = "blobex",
    register: Annotated[
        bool, typer.Option("--register/--no-register", help="Register a new version in MLflow as `reference`.")
    ] = True,
) -> None:
    """Promote the networks in models/ as the reference: weights, model card and checksums in one folder.

    Run it where the pipeline ran. Nothing is written if a network is missing or belongs to another run.
    """
    from blobex.release.release import release as write

    for written in write(["square", "rect"] if setup == "all" else [setup], to, name, register):
        print(f"{written.folder}: {written.files} files, {written.bytes / 1e6:.1f} MB")
        if written.missing:
            print(f"  without {', '.join(written.missing)}")
        models = ", ".join(written.models)
        print(f"  the reference in MLflow: {models}" if models else "  not registered in MLflow")


def external(
    params: Annotated[Path, typer.Option(help="Parameter file; data.external is the folder.")] = Path("params.yaml"),
) -> None:
    """List external weights: what needs each file, where it belongs, and whether it is there and intact."""
    from blobex.config.read import load_params
    from blobex.networks.external import table

    print(table(Path(load_params(params).data.external)))
