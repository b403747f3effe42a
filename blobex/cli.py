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
        list[str] | None,
        typer.Option(
            "--attribute", "--to", help="What should change, or win: an output of the model (ours: forward, stop, ...)."
        ),
    ] = None,
    region: Annotated[
        str | None,
        typer.Option(help="For segmentation: left,top,right,bottom as shares of the picture; the whole if not given."),
    ] = None,
    replaced: Annotated[
        str | None, typer.Option("--from", help="For segmentation: the class to replace; the commonest if not given.")
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
    decision: Annotated[
        str | None, typer.Option(help="Model to explain: plain, biased, FILE.pt2, card.yaml, module:name, ...")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    models: Annotated[Path, typer.Option(help="Folder of the trained networks.")] = Path("models"),
    params: Annotated[Path, typer.Option(help="Parameter file; gives what no option says.")] = Path("params.yaml"),
) -> None:
    """Find the smallest changes of objects that change the decision about PHOTOs.

    Writes snapshot_<i>.png (query, reconstruction, counterfactuals), metadata_<i>.pt and explanations.parquet.
    """
    from blobex.explainer import Explainer

    box = _box(region)
    files = [file for photo in photos for file in (_readable(photo) if photo.is_dir() else [photo])]
    explainer = Explainer.load(setup, models, params, device, decision)
    records = explainer.explain(
        files,
        attribute,
        keys,
        blobs,
        background,
        out,
        box,
        replaced,
        steps=steps,
        lambda_prox=lambda_prox,
        learning_rate=learning_rate,
    )
    for record in records:
        scores = f"{record.attribute} {record.score_before:.2f} -> {record.score_after:.2f}"
        print(f"{record.image}  {record.from_class} -> {record.to_class}  {scores}  {record.verdict}")
    print(f"{sum(record.verdict == 'flipped' for record in records)} of {len(records)} flipped")
    for path in sorted(out.glob("snapshot_*.png")):
        print(path)


def _box(region: str | None) -> tuple[float, float, float, float] | None:
    if region is None:
        return None
    try:
        left, top, right, bottom = (float(number) for number in region.split(","))
    except ValueError as error:
        raise BlobexError(f"--region {region}: give left,top,right,bottom, such as 0.2,0.5,0.8,1") from error
    return left, top, right, bottom


def _readable(folder: Path) -> list[Path]:
    """The pictures of a folder; what cannot be read is told and left out."""
    from blobex.datasets.images import list_images, load_image

    found, files = list_images(folder), []
    for file in found:
        try:
            load_image(file)
            files.append(file)
        except BlobexError as error:
            print(f"blobex: skipped: {error}", file=sys.stderr)
    if not files:
        raise BlobexError(f"none of the {len(found)} pictures in {folder} can be read: give others")
    return files


@app.command("import")
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
    from blobex import config
    from blobex.importing import import_file

    folder, provenance = import_file(file, kind, setup, config.load(params), models, variant, seed)
    print(folder)
    for name, value in provenance.items():
        print(f"  {name}: {', '.join(value) or 'nothing' if isinstance(value, list) else value}")


@app.command()
def external(
    params: Annotated[Path, typer.Option(help="Parameter file; its data.external is the folder.")] = Path(
        "params.yaml"
    ),
) -> None:
    """List the weights from elsewhere: what needs each, where it belongs, and whether it is there and whole."""
    from blobex import config
    from blobex.networks.external import table

    print(table(Path(config.load(params).data.external)))


@app.command()
def data(
    params: Annotated[Path, typer.Option(help="Parameter file; its data.root is looked into.")] = Path("params.yaml"),
) -> None:
    """List the parts of BDD100K and BDD-OIA that are missing; exit code 1 if there are any."""
    from blobex import config
    from blobex.datasets.bdd import missing_parts

    root = config.load(params).data.root
    missing = missing_parts(root)
    if missing:
        raise BlobexError(f"{root} lacks:\n  " + "\n  ".join(missing))
    print(f"{root} holds all parts")
