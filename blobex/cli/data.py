"""Commands about pictures: `scenes`, `data`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blobex.core.errors import BlobexError


def scenes(
    out: Annotated[Path, typer.Argument(help="Folder for the pictures.")],
    count: Annotated[int, typer.Option(help="How many.")] = 8,
    height: Annotated[int, typer.Option(min=16, max=1024, help="Pixels; they are twice as wide.")] = 64,
    seed: Annotated[int, typer.Option(help="Other seeds, other scenes.")] = 0,
) -> None:
    """Draw synthetic road scenes that no network was trained on, as photos to explain."""
    from blobex.scenes.write import write_images

    print("\n".join(map(str, write_images(out, count, height, seed))))


def data(
    params: Annotated[Path, typer.Option(help="Parameter file; its data.root is looked into.")] = Path("params.yaml"),
) -> None:
    """Describe the data set in <data.root>.json, which DVC watches; exit code 1 if parts of BDD100K are missing."""
    from blobex.config.read import load_params
    from blobex.datasets.bdd_files import PARTS, missing_parts
    from blobex.datasets.manifest import data_root, manifest_path, write_manifest

    values = load_params(params)
    root = data_root(values)
    missing = missing_parts(root) if values.data.source == "bdd100k" else []
    if missing:
        print("\n".join(missing))
        raise BlobexError(f"{root} lacks {len(missing)} of {len(PARTS)} parts: unpack what is listed")
    found = write_manifest(root)
    print(f"{root} holds all parts; {manifest_path(root)} describes its {found['files']:,} files")
