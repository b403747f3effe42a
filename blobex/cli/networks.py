"""Commands about networks: `import`, `external`, `release`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def import_weights(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A published PyTorch file.")],
    kind: Annotated[str, typer.Option("--as", help="What to take from it: generator, encoder or decision.")],
    setup: Annotated[str, typer.Option(help="Shape of the pictures: square or rect.")],
    variant: Annotated[str, typer.Option(help="Name of a decision model: plain or biased.")] = "plain",
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**31 - 1, help="Of the latents whose mean w is taken.")
    ] = None,
    models: Annotated[Path, typer.Option(help="Folder of the networks, which is written to.")] = Path("models"),
    params: Annotated[Path, typer.Option(help="Parameter file; it says how large a setup is.")] = Path("params.yaml"),
) -> None:
    """Take over published weights; no code from FILE is run, and nothing is written unless all is well."""
    from blobex.config.read import load_params
    from blobex.networks.import_weights import import_file

    folder, provenance = import_file(file, kind, setup, load_params(params), models, variant, seed)
    print(folder)
    for name, value in provenance.items():
        print(f"  {name}: {', '.join(value) or 'nothing' if isinstance(value, list) else value}")


def release(
    setup: Annotated[str, typer.Option(help="Shape of the pictures: square, rect or all.")] = "rect",
    to: Annotated[Path, typer.Option(help="Folder for the releases, one folder each.")] = Path("models/release"),
    name: Annotated[str, typer.Option(help="Of the model in MLflow, before the setup.")] = "blobex",
    register: Annotated[
        bool, typer.Option("--register/--no-register", help="Whether MLflow gets a new version, as `reference`.")
    ] = True,
) -> None:
    """Promote the networks in models/ as the reference: weights, model card and checksums in one folder.

    Run it where the pipeline ran. Nothing is written unless all is there and belongs together.
    """
    from blobex.release.release import release as write

    for written in write(["square", "rect"] if setup == "all" else [setup], to, name, register):
        print(f"{written.folder}: {written.files} files, {written.bytes / 1e6:.1f} MB")
        if written.missing:
            print(f"  without {', '.join(written.missing)}")
        models = ", ".join(written.models)
        print(f"  the reference in MLflow: {models}" if models else "  not registered in MLflow")


def external(
    params: Annotated[Path, typer.Option(help="Parameter file; its data.external is the folder.")] = Path(
        "params.yaml"
    ),
) -> None:
    """List the weights from elsewhere: what needs each, where it belongs, and whether it is there and whole."""
    from blobex.config.read import load_params
    from blobex.networks.external import table

    print(table(Path(load_params(params).data.external)))
