"""Which blob is which: the blobs of photos as a numbered map, as a table and as JSON."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from blobex.core.errors import BlobexError
from blobex.core.files import whole_file
from blobex.datasets.images import to_array, write_png
from blobex.explain.blob_map import blob_map, dominant
from blobex.explain.blob_names import blob_names, plain_names
from blobex.explain.changeable import image_named, region_masks
from blobex.explain.explainer import Explainer
from blobex.layout.blobs import BlobLayout
from blobex.networks.parser import Parser
from blobex.perception.painting_blobs import painting_blobs
from blobex.scenes.labels import SEMANTIC

LENGTH = 200  # bytes of a picture's name that its files bear


@dataclass(frozen=True)
class Blob:
    """One blob of a picture. What it paints is None without a parser, and where it paints nothing at all."""

    number: int  # from 0
    name: str  # what it was trained to stand for, such as "vehicle 3"; "blob 20" where that is unknown
    x: float  # of its centre, as shares of the picture
    y: float
    size: float  # the share of the picture that it paints
    visible: bool  # whether there is a pixel that it paints most of
    category: str | None  # what it paints most, one of scenes.labels.SEMANTIC
    share: float | None  # how much of what it paints that is

    @property
    def paints(self) -> str:
        return "" if self.category is None else f"{self.category} {self.share:.0%}"

    @property
    def label(self) -> str:
        """What the map says about it beside its number."""
        (plain,) = plain_names([self.number])
        return ", ".join(
            filter(None, ("" if self.name == plain else self.name, self.paints, f"{self.size:.0%} of all"))
        )


@dataclass(frozen=True)
class Listing:
    """The blobs of one picture, and those that paint a region where one was asked for."""

    image: str
    setup: str
    background: float  # the share of the picture that the background paints
    blobs: tuple[Blob, ...]
    region: str | None = None
    chosen: tuple[int, ...] | None = None
    background_chosen: bool | None = None

    @property
    def table(self) -> str:
        """For people to read; a star marks the blobs that paint the region."""
        known = any(blob.category for blob in self.blobs)
        lines = [f"{self.image}{'' if known else '  (no parser: what blobs paint is unknown)'}"]
        wide = max(len(blob.name) for blob in self.blobs)
        lines.append(f"  blob  {'name':{wide}}     x     y   size  paints")
        for blob in self.blobs:
            star = "*" if blob.number in (self.chosen or ()) else " "
            seen = blob.paints if blob.visible else "not visible"
            place = f"{blob.x:4.2f}  {blob.y:4.2f}  {blob.size:5.1%}"
            lines.append(f"{star} {blob.number:4d}  {blob.name:{wide}}  {place}  {seen}".rstrip())
        lines.append(f"  background{' ' * wide}          {self.background:5.1%}")
        if self.chosen is not None:
            painters = [*map(str, self.chosen), *(["background"] if self.background_chosen else [])]
            lines.append(f"  painting {self.region}: {', '.join(painters)}")
        return "\n".join(lines)


def list_blobs(
    photos: Sequence[Path],
    out: Path,
    setup: str = "rect",
    models: Path = Path("models"),
    params: Path = Path("params.yaml"),
    device: str | None = None,
    region: str | None = None,
) -> list[Listing]:
    """Invert photos and write, for each, its map `<stem>.png` and its listing `<stem>.json` into the folder `out`.

    With `region`, a text that `counterfactual.regions.region_mask` understands, the blobs that paint it are chosen and
    stand out. Without a parser in `models` nobody says what blobs paint. BlobexError: networks are missing, a photo
    cannot be read, a region is not found or painted by no blob, or `out` cannot be written.
    """
    explainer = Explainer.load(setup, models, params, device)
    images = explainer.load_images(list(photos))
    names, queries = images.names, images.queries
    regions: Sequence[Tensor | None] = [None] * len(names)
    if region is not None:
        regions = region_masks(region, names, queries.to(explainer.device), explainer.parser)
    inversion = explainer.invert(queries)
    called = blob_names(models, setup, inversion.layout.blobs)
    listings, maps = [], []
    for index, (name, query, inside) in enumerate(zip(names, queries, regions, strict=True)):
        layout, image = inversion.layout[index : index + 1], inversion.image[index]
        scores = explainer.exact.scores(layout)[0].cpu()
        listing = Listing(
            name, setup, scores[0].mean().item(), _blobs(layout, scores, _named(explainer.parser, image), called)
        )
        if inside is not None:
            listing = _choose(listing, region, scores, inside)
        listings.append(listing)
        maps.append(_draw(listing, query, image, scores, inside))
    _write(out, listings, maps)
    return listings


def _named(parser: Parser | None, image: Tensor) -> Tensor | None:
    """The category of each pixel (H,W) of a picture (3,H,W), on the CPU."""
    if parser is None:
        return None
    with torch.no_grad():
        return parser(image[None].clamp(-1, 1)).semantic[0].argmax(0).cpu()


def _blobs(layout: BlobLayout, scores: Tensor, named: Tensor | None, called: Sequence[str]) -> tuple[Blob, ...]:
    """The record of each blob; blob k has the score map k+1 of `scores` (K+1,H,W), on the CPU."""
    seen = set(dominant(scores.numpy()).flatten().tolist())
    places = zip(layout.xs[0].tolist(), layout.ys[0].tolist(), strict=True)
    return tuple(
        Blob(number, called[number], x, y, painted.mean().item(), number in seen, *_category(painted, named))
        for number, ((x, y), painted) in enumerate(zip(places, scores[1:], strict=True))
    )


def _category(painted: Tensor, named: Tensor | None) -> tuple[str | None, float | None]:
    """What a score map (H,W) paints most, and how much of what it paints that is."""
    if named is None or not painted.any():
        return None, None
    amounts = named.flatten().bincount(painted.flatten().double(), len(SEMANTIC))
    most = int(amounts.argmax())
    return SEMANTIC[most], (amounts[most] / amounts.sum()).item()


def _choose(listing: Listing, region: str | None, scores: Tensor, inside: Tensor) -> Listing:
    """The listing with the blobs that paint a region (H,W)."""
    with image_named(listing.image):
        (blobs,), (background,) = painting_blobs(scores[None], inside[None], background=True)
    return dataclasses.replace(listing, region=region, chosen=tuple(blobs), background_chosen=background)


def _draw(listing: Listing, query: Tensor, image: Tensor, scores: Tensor, inside: Tensor | None) -> np.ndarray:
    return blob_map(
        to_array(query),
        scores.numpy(),
        np.array([(blob.x, blob.y) for blob in listing.blobs]),
        to_array(image),
        {blob.number: blob.label for blob in listing.blobs},
        listing.chosen,
        None if inside is None else inside.numpy(),
    )


def _write(out: Path, listings: Sequence[Listing], maps: Sequence[np.ndarray]) -> None:
    """The files of each listing, called like its picture; of pictures with one name, the later ones get a number."""
    names: set[str] = set()
    try:
        for listing, sheet in zip(listings, maps, strict=True):
            stem = Path(listing.image).stem.encode()[:LENGTH].decode(errors="ignore")
            numbered = (f"{stem}_{number}" for number in itertools.count(2))
            name = next(name for name in itertools.chain([stem], numbered) if name not in names)
            names.add(name)
            write_png(out / f"{name}.png", sheet)
            with whole_file(out / f"{name}.json") as temporary:
                temporary.write_text(json.dumps(dataclasses.asdict(listing), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise BlobexError(f"cannot write into {out} ({error.strerror}): give another folder") from error
