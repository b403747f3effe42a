"""`blobex blobs`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def list_blobs(
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO...", help="Pictures of any size, or folders of them.")],
    out: Annotated[Path, typer.Option(help="Folder for the maps.")],
    setup: Annotated[str, typer.Option(help="Shape of the pictures: square or rect.")] = "rect",
    region: Annotated[
        str | None,
        typer.Option(help="Whose blobs stand out: 'car ahead', left,top,right,bottom, 'x,y x,y x,y', or a mask."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    models: Annotated[Path, typer.Option(help="Folder of the trained networks.")] = Path("models"),
    params: Annotated[Path, typer.Option(help="Parameter file.")] = Path("params.yaml"),
) -> None:
    """Show which blob of PHOTOs is which: a numbered map and a list for each, and a table."""
    from blobex.explain import blob_listing
    from blobex.explain.blob_names import blob_names
    from blobex.explain.explainer import Explainer

    explainer = Explainer.load(setup, models, params, device)
    names = blob_names(models, setup, explainer.blobs)
    for listing in blob_listing.list_blobs(explainer, photos, names, out, region):
        print(listing.table)
