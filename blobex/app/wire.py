"""JSON messages between page and server, validated as strictly as the parameters.

All input is checked here or where it is used; invalid input raises BlobexError.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import math
from pathlib import PurePath
from typing import Annotated, Any, Literal, NoReturn

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from blobex.config.value_types import SECTION, Bool, Float, Int, Names, Text, Variant
from blobex.core.errors import BlobexError
from blobex.layout.blobs import BlobLayout

FLOATS = np.dtype("<f4")  # of an appearance
MAX_NAME = 100  # letters
MAX_APPEARANCE = 1e4


@dataclass(frozen=True, config=SECTION)
class WireBlob:
    """One blob; `look` is its features and style as float32 in base64, which the page only passes on."""

    x: Annotated[Float, Field(ge=-10, le=10)]
    y: Annotated[Float, Field(ge=-10, le=10)]
    covs: list[Annotated[Float, Field(ge=-1e4, le=1e4)]]  # 4: as in BlobLayout
    size: Annotated[Float, Field(ge=-1e4, le=1e4)]
    look: Text


@dataclass(frozen=True, config=SECTION)
class WireLayout:
    background: Text  # features and style
    blobs: list[WireBlob]


@dataclass(frozen=True, config=SECTION)
class WireScene:
    """An image and its blobs."""

    name: Text
    photo: Text | None  # image file of the setup's size in base64; null: the rendered layout
    start: WireLayout  # layout of the photo
    layout: WireLayout  # edited layout
    decision: Text  # decision model


@dataclass(frozen=True, config=SECTION)
class WireSample:
    seed: Annotated[Int, Field(ge=0, le=2**31 - 1)]
    truncation: Annotated[Float, Field(ge=0, le=1)] = 0.0
    decision: Text | None = None  # null: the first


@dataclass(frozen=True, config=SECTION)
class WireQuestion:
    """Options of `Request` that the page offers."""

    attribute: Text | None = None
    replaced: Text | None = None
    at_least: Annotated[Float, Field(ge=-1e9, le=1e9)] | None = None
    at_most: Annotated[Float, Field(ge=-1e9, le=1e9)] | None = None
    between: list[Annotated[Float, Field(ge=-1e9, le=1e9)]] | None = None  # 2
    variant: Variant = "basic"
    keys: Names[Text] | None = None
    blobs: list[Annotated[Int, Field(ge=0, le=511)]] | None = None
    region: list[Annotated[Float, Field(ge=0, le=1)]] | None = None  # left, top, right, bottom; or x, y of 3 or more
    thing: Text | None = None  # object that the parser finds, such as "car ahead"
    background: Bool | None = None
    few: Bool | None = None
    count: Annotated[Int, Field(ge=1, le=8)] | None = None
    compose: Text | None = None
    steps: Annotated[Int, Field(ge=1, le=2000)] | None = None
    lambda_prox: Annotated[Float, Field(ge=0, le=1000)] | None = None
    learning_rate: Annotated[Float, Field(ge=1e-6, le=10)] | None = None


@dataclass(frozen=True, config=SECTION)
class WireFeedback:
    """An answer about an explanation; see `explain.feedback`."""

    png: Text  # the changed image in base64
    image: Text  # name of the explained image
    output: Text
    decided: Bool
    answer: Literal["true", "false", "not sensible"]


def read_json(body: bytes) -> Any:
    """Parse a request's body; BlobexError if it is not JSON, or holds NaN or infinity."""
    try:
        return json.loads(body, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise BlobexError("the request is not valid JSON: send an object") from error


def _refuse(name: str) -> NoReturn:
    raise ValueError(name)


def short_name(name: str) -> str:
    """Return the last part of a file's name, printable, short and not empty."""
    base = PurePath(name.replace("\\", "/").replace("\0", "")).name
    return "".join(letter if letter.isprintable() else "_" for letter in base)[-MAX_NAME:] or "picture"


def to_layout(wire: WireLayout, blobs: int, feature_dim: int, style_dim: int) -> BlobLayout:
    """Convert to the layout of one image on the CPU; BlobexError unless it fits a generator of these sizes."""
    if len(wire.blobs) != blobs:
        raise BlobexError(f"the layout has {len(wire.blobs)} blobs, and the generator {blobs}: sample or load again")
    for number, blob in enumerate(wire.blobs):
        if len(blob.covs) != 4 or math.hypot(*blob.covs[2:]) < 1e-6:
            raise BlobexError(f"the shape of blob {number} must be two numbers and a direction that is not zero")
    looks = [wire.background, *(blob.look for blob in wire.blobs)]
    numbers = torch.stack([_appearance(look, feature_dim + style_dim) for look in looks])
    features, style = numbers.split([feature_dim, style_dim], dim=1)
    return BlobLayout(
        xs=torch.tensor([[blob.x for blob in wire.blobs]]),
        ys=torch.tensor([[blob.y for blob in wire.blobs]]),
        covs=torch.tensor([[blob.covs for blob in wire.blobs]]),
        sizes=torch.tensor([[0.0, *(blob.size for blob in wire.blobs)]]),
        features=features[None].contiguous(),
        spatial_style=style[None].contiguous(),
    )


def _appearance(text: str, length: int) -> Tensor:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BlobexError("a blob's look is not base64: sample or load again") from error
    if len(data) != length * FLOATS.itemsize:
        raise BlobexError("a blob's look belongs to another generator: sample or load again")
    numbers = np.frombuffer(data, FLOATS).astype(np.float32)
    if not (np.abs(numbers) <= MAX_APPEARANCE).all():  # also if one is not a number
        raise BlobexError("a blob's look holds invalid or too large numbers: sample or load again")
    return torch.from_numpy(numbers)


def from_layout(layout: BlobLayout) -> dict[str, Any]:
    """Convert the layout of one image to JSON; numbers keep their bits."""
    one = layout[:1].detach().to("cpu")
    looks = torch.cat([one.features[0], one.spatial_style[0]], dim=1).float().numpy().astype(FLOATS)
    texts = [base64.b64encode(row.tobytes()).decode("ascii") for row in looks]
    places = zip(one.xs[0].tolist(), one.ys[0].tolist(), one.covs[0].tolist(), one.sizes[0, 1:].tolist(), strict=True)
    blobs = [
        {"x": x, "y": y, "covs": covs, "size": size, "look": look}
        for (x, y, covs, size), look in zip(places, texts[1:], strict=True)
    ]
    return {"background": texts[0], "blobs": blobs}


def to_image(text: str, height: int, width: int) -> np.ndarray:
    """Decode a PNG file in base64 to uint8 (height,width,3); BlobexError unless it has that size."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=("PNG",)) as image:
            if image.size != (width, height):
                raise BlobexError(f"the photo must be {width} x {height} pixels here: load it again")
            return np.array(image.convert("RGB"))
    except BlobexError:
        raise
    except Exception as error:  # damaged bytes make Pillow raise nearly anything
        raise BlobexError("the photo is not a PNG file: load it again") from error


def from_image(image: np.ndarray) -> str:
    """Encode uint8 (H,W,3) as a PNG file in base64."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG", compress_level=1)
    return base64.b64encode(file.getvalue()).decode("ascii")
