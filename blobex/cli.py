"""The command line: `blobex explain PHOTO...`. What is heavy to import is imported by the command that needs it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from blobex import __version__
from blobex.errors import BlobexError

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def main() -> None:
    """The entry point: what the user can put right is told in one line on stderr, with exit code 1."""
    try:
        app()
    except BlobexError as error:
        print(f"blobex: {error}", file=sys.stderr)
        sys.exit(1)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"blobex {__version__}")
        raise typer.Exit()


@app.callback()
def blobex(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Object-aware counterfactual explanations: what would have to be different for the model to decide otherwise?"""


@app.command()
def explain(
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO...", help="Pictures of any size, or folders of them.")],
    out: Annotated[Path, typer.Option(help="Folder for the results.")],
    setup: Annotated[str, typer.Option(help="Shape of the pictures: square or rect.")] = "rect",
    attribute: Annotated[
        list[str] | None, typer.Option(help="forward, stop, left or right; stop if none is named.")
    ] = None,
    keys: Annotated[
        list[str] | None, typer.Option(help="What may change: position, size, shape, appearance, style, or a key.")
    ] = None,
    blobs: Annotated[list[int] | None, typer.Option(help="Blobs that may change, numbered from 0.")] = None,
    background: Annotated[
        bool | None, typer.Option(help="Whether the background may change; not if blobs are named.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of the search.")] = None,
    lambda_prox: Annotated[float | None, typer.Option(help="Price of change.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of all keys but sizes.")] = None,
    decision: Annotated[str | None, typer.Option(help="Decision model to explain: plain or biased.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    models: Annotated[Path, typer.Option(help="Folder of the trained networks.")] = Path("models"),
    params: Annotated[Path, typer.Option(help="Parameter file; gives what no option says.")] = Path("params.yaml"),
) -> None:
    """Find the smallest changes of objects that change the decision about PHOTOs.

    Writes snapshot_<i>.png (query, reconstruction, counterfactuals), metadata_<i>.pt and explanations.parquet.
    """
    from blobex.datasets.images import list_images
    from blobex.explainer import Explainer, attribute_indices

    attributes = attribute or ["stop"]
    attribute_indices(attributes)
    files = [file for photo in photos for file in (list_images(photo) if photo.is_dir() else [photo])]
    explainer = Explainer.load(setup, models, params, device, decision)
    records = explainer.explain(
        files,
        attributes,
        keys,
        blobs,
        background,
        out,
        steps=steps,
        lambda_prox=lambda_prox,
        learning_rate=learning_rate,
    )
    for record in records:
        scores = f"{record.score_before:.2f} -> {record.score_after:.2f}"
        print(f"{record.image}  {record.attribute} {scores}  {record.verdict}")
    print(f"{sum(record.verdict == 'flipped' for record in records)} of {len(records)} flipped")
    for path in sorted(out.glob("snapshot_*.png")):
        print(path)
