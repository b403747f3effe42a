"""Lists of an image's blobs: their names, a numbered map, a table and JSON."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from blobex.core.errors import BlobexError
from blobex.core.files import write_text
from blobex.datasets.images import to_array, write_png
from blobex.explain.blob_map import blob_map, dominant
from blobex.explain.changeable import image_named, region_masks
from blobex.explain.explainer import Explainer
from blobex.explain.input_images import Image
from blobex.networks.weights import read_config
from blobex.perception.regions import painting_blobs
from blobex.scenes.labels import SEMANTIC

MAX_NAME = 200  # bytes of an image's name in file names


@dataclass(frozen=True)
class Blob:
    """One blob of an image."""

    number: int  # from 0
    name: str  # group of segments it was trained on, such as "vehicle 3", or "blob 20"
    x: float  # centre, in [0, 1]
    y: float
    size: float  # share of the image that it paints
    visible: bool  # whether it dominates a pixel
    category: str | None  # most common category of what it paints; None without a parser, or if it paints nothing
    share: float | None  # of that category in what it paints

    @property
    def paints(self) -> str:
        """Category and share, or an empty text."""
        return "" if self.category is None else f"{self.category} {self.share:.0%}"

    @property
    def label(self) -> str:
        """Text of the map's legend, after the number."""
        name = "" if self.name == f"blob {self.number}" else self.name
        parts = (name, self.paints, f"{self.size:.0%} of all")
        return ", ".join(filter(None, parts))


@dataclass(frozen=True)
class Listing:
    """Blobs of one image, and those that paint a region, if one is given."""

    image: str
    setup: str
    background: float  # share of the image that the background paints
    blobs: tuple[Blob, ...]
    region: str | None = None
    chosen: tuple[int, ...] | None = None
    background_chosen: bool | None = None

    @property
    def table(self) -> str:
        """Listing as text; a star marks blobs that paint the region."""
        parsed = any(blob.category for blob in self.blobs)
        lines = [f"{self.image}{'' if parsed else '  (no parser: what blobs paint is unknown)'}"]
        wide = max(len(blob.name) for blob in self.blobs)
        lines.append(f"  blob  {'name':{wide}}     x     y   size  paints")
        for blob in self.blobs:
            star = "*" if blob.number in (self.chosen or ()) else " "
            paints = blob.paints if blob.visible else "not visible"
            numbers = f"{blob.x:4.2f}  {blob.y:4.2f}  {blob.size:5.1%}"
            lines.append(f"{star} {blob.number:4d}  {blob.name:{wide}}  {numbers}  {paints}".rstrip())
        lines.append(f"  background{' ' * wide}          {self.background:5.1%}")
        if self.chosen is not None:
            painters = [*map(str, self.chosen), *(["background"] if self.background_chosen else [])]
            lines.append(f"  painting {self.region}: {', '.join(painters)}")
        return "\n".join(lines)


def list_blobs(
    explainer: Explainer, images: Sequence[Image], names: Sequence[str], out: Path, region: str | None = None
) -> list[Listing]:
    """Invert images and write each one's map <stem>.png and listing <stem>.json into the folder `out`.

    Args:
        names: Names of the generator's blobs.
        region: Region whose blobs are chosen and highlighted; see `region_mask`.

    Raises:
        BlobexError: An image cannot be read, a region is not found or painted by no blob, or `out` cannot be written.
    """
    loaded = explainer.load_images(list(images))
    regions: Sequence[Tensor | None] = [None] * len(loaded)
    if region is not None:
        queries = loaded.queries.to(explainer.device)
        regions = region_masks(region, loaded.names, queries, explainer.parser)
    inversion = explainer.invert(loaded.queries)
    listings, maps = [], []
    for row, (name, query, mask) in enumerate(zip(loaded.names, loaded.queries, regions, strict=True)):
        layout, image = inversion.layout[row : row + 1], inversion.image[row]
        scores = explainer.exact.scores(layout)[0].cpu()
        centres = torch.stack([layout.xs[0], layout.ys[0]], dim=1).cpu()
        blobs = _blobs(names, centres, scores, _categories(explainer, image))
        listing = Listing(name, explainer.setup, scores[0].mean().item(), blobs)
        if mask is not None:
            with image_named(name):
                (chosen,), (background,) = painting_blobs(scores[None], mask[None], background=True)
            listing = dataclasses.replace(listing, region=region, chosen=tuple(chosen), background_chosen=background)
        labels, outline = {blob.number: blob.label for blob in blobs}, None if mask is None else mask.numpy()
        arrays = to_array(query), scores.numpy(), np.array(centres.tolist()), to_array(image)
        listings.append(listing)
        maps.append(blob_map(*arrays, labels, listing.chosen, outline))
    _write(out, listings, maps)
    return listings


def main_category(painted: Tensor, categories: Tensor | None) -> tuple[str | None, float | None]:
    """Return the most common category of what a score map (H,W) paints, given each pixel's (H,W), and its share."""
    if categories is None or not painted.any():
        return None, None
    amounts = categories.flatten().bincount(painted.flatten().double(), len(SEMANTIC))
    most = int(amounts.argmax())
    return SEMANTIC[most], (amounts[most] / amounts.sum()).item()


def _categories(explainer: Explainer, image: Tensor) -> Tensor | None:
    """Return the category of each pixel (H,W) of an image (3,H,W), on the CPU; None without a parser."""
    if explainer.parser is None:
        return None
    with torch.no_grad():
        return explainer.parser(image[None].clamp(-1, 1)).semantic[0].argmax(0).cpu()


def _blobs(names: Sequence[str], centres: Tensor, scores: Tensor, categories: Tensor | None) -> tuple[Blob, ...]:
    visible = set(dominant(scores.numpy()).flatten().tolist())
    return tuple(
        Blob(number, names[number], x, y, painted.mean().item(), number in visible, *main_category(painted, categories))
        for number, ((x, y), painted) in enumerate(zip(centres.tolist(), scores[1:], strict=True))
    )


def _write(out: Path, listings: Sequence[Listing], maps: Sequence[np.ndarray]) -> None:
    try:
        for name, listing, sheet in zip(_file_names(listings), listings, maps, strict=True):
            write_png(out / f"{name}.png", sheet)
            write_text(out / f"{name}.json", json.dumps(dataclasses.asdict(listing), indent=1) + "\n")
    except OSError as error:
        raise BlobexError(f"cannot write into {out} ({error.strerror}): give another folder") from error


def _file_names(listings: Sequence[Listing]) -> Iterator[str]:
    """Yield the stem of each image's name; repeated stems get a number."""
    used: set[str] = set()
    for listing in listings:
        stem = Path(listing.image).stem.encode()[:MAX_NAME].decode(errors="ignore")
        numbered = (f"{stem}_{number}" for number in itertools.count(2))
        name = next(name for name in itertools.chain([stem], numbered) if name not in used)
        used.add(name)
        yield name


def blob_names(models: Path, setup: str, blobs: int) -> tuple[str, ...]:
    """Name the blobs of a setup's generator by the group of segments they were trained on, else "blob 20"."""
    plain = tuple(f"blob {number}" for number in range(blobs))
    try:
        trained = read_config(models / "blobgan" / setup, "blobgan")
        slots = read_config(models / "blobgan_pretrain" / setup, "blobgan_pretrain").get("slots")
    except BlobexError:
        return plain
    names = slot_names(slots) if trained.get("start") == "pretrained" and isinstance(slots, Mapping) else ()
    return names if len(names) == blobs else plain


def slot_names(slots: Mapping[str, int]) -> tuple[str, ...]:
    """Return the names of the blobs of each group of segments, back to front.

    >>> slot_names({"lane": 1, "side_lane": 2})
    ('lane', 'side lane 1', 'side lane 2')
    """
    groups = [(group.replace("_", " "), count) for group, count in slots.items()]
    return tuple(f"{group} {n + 1}" if count > 1 else group for group, count in groups for n in range(count))
