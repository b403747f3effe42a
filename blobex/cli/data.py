"""Commands `blobex scenes` and `blobex data`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from blobex.core.errors import BlobexError

NAMED = 5  # unprintable file names that are listed


def scenes(
    out: Annotated[Path, Argument(help="Folder for the images.")],
    count: Annotated[int, Option(help="Number of scenes.")] = 8,
    height: Annotated[int, Option(min=16, max=1024, help="Height in pixels; the width is twice that.")] = 64,
    seed: Annotated[int, Option(help="Seed of the scenes.")] = 0,
) -> None:
    """Draw synthetic road scenes to explain; no network was trained on them."""
    from blobex.scenes.write import write_images

    print("\n".join(map(str, write_images(out, count, height, seed))))


def data(
    params: Annotated[Path, Option(help="Parameter file; data.root is the data set.")] = Path("params.yaml"),
) -> None:
    """Write the manifest <data.root>.json, which DVC watches. Exit with code 1 if parts of BDD100K are missing."""
    from blobex.config.read import load_params
    from blobex.datasets.bdd_files import PARTS, missing_parts
    from blobex.datasets.manifest import check_scenes, data_root, manifest_path, unprintable_names, write_manifest

    values = load_params(params)
    root = data_root(values)
    check_scenes(root)
    missing = missing_parts(root) if values.data.source == "bdd100k" else []
    if missing:
        print("\n".join(missing))
        raise BlobexError(f"{root} lacks {len(missing)} of {len(PARTS)} parts: unpack those listed above")
    manifest, unprintable = write_manifest(root), unprintable_names(root)
    print(f"{root} holds all parts; {manifest_path(root)} describes its {manifest['files']:,} files")
    if unprintable:
        names = ", ".join(unprintable[:NAMED]) + (", ..." if len(unprintable) > NAMED else "")
        print(f"{len(unprintable)} file names are not printable UTF-8; results list them as {names}")
