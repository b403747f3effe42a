"""Command `blobex blobs`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blobex.cli.options import REGION_FORMS, Device, Models, ParamsFile, Photos, Setup


def list_blobs(
    photos: Photos,
    out: Annotated[Path, typer.Option(help="Folder for the maps.")],
    setup: Setup = "rect",
    region: Annotated[str | None, typer.Option(help=f"Region whose blobs are marked: {REGION_FORMS}.")] = None,
    device: Device = None,
    models: Models = Path("models"),
    params: ParamsFile = Path("params.yaml"),
) -> None:
    """Number the blobs of PHOTOs: write a map and a list of each, and print a table."""
    from blobex.explain import blob_listing
    from blobex.explain.explainer import Explainer

    explainer = Explainer.load(setup, models, params, device)
    names = blob_listing.blob_names(models, setup, explainer.blobs)
    for listing in blob_listing.list_blobs(explainer, photos, names, out, region):
        print(listing.table)
