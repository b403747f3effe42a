"""Decision cards: YAML files that name a model, its outputs, and the input that it takes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field
from pydantic.dataclasses import dataclass

from blobex.config.read import parse, read_yaml
from blobex.config.value_types import SECTION, Float, Int, Names, Text
from blobex.core.errors import BlobexError, brief
from blobex.decisions.decision import Channels, Input, Kind, Resize
from blobex.decisions.declared import ordered_names
from blobex.decisions.probabilities import Values

LARGEST = 10  # of a mean or std of colours from 0 to 1; above, they are of colours from 0 to 255


@dataclass(frozen=True, config=SECTION)
class Card:
    """Keys of a card. All but `model` are optional: null leaves the value of the reference itself."""

    model: Text  # a reference for `load`; file names are relative to the card
    kind: Kind | None = None
    outputs: Names[Text] | None = None  # one name per logit
    height: Annotated[Int, Field(ge=1, le=8192)] | None = None  # of the model's input images
    width: Annotated[Int, Field(ge=1, le=8192)] | None = None
    mean: list[Annotated[Float, Field(ge=-10, le=255)]] | None = None  # of colours in 0..1 or 0..255, per channel
    std: list[Annotated[Float, Field(ge=1e-4, le=255)]] | None = None
    resize: Resize | None = None
    channels: Channels | None = None
    values: Values | None = None  # of the outputs; null: recognised

    def input(self, default: Input) -> Input:
        """Return the model's input, with the values of `default` for null keys; a single size sets both.

        Raises BlobexError if mean and std are invalid, or of colours of different ranges.
        """
        sized = self.height is not None or self.width is not None
        channels = self.channels or default.channels
        order = slice(None) if channels == default.channels else slice(None, None, -1)
        mean, std = self._scaling()
        return Input(
            height=self.height if sized else default.height,
            width=self.width if sized else default.width,
            mean=mean or default.mean[order],
            std=std or default.std[order],
            resize=self.resize or default.resize,
            channels=channels,
        )

    def _scaling(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and std of colours from 0 to 1; () for null."""
        mean, std = tuple(self.mean or ()), tuple(self.std or ())
        bytes_ = [bool(values) and max(map(abs, values)) > LARGEST for values in (mean, std)]
        if not any(bytes_):
            return mean, std
        if bytes_[0] and not std:
            raise BlobexError(
                f"mean {list(mean)} is of colours from 0 to 255: give std in the same range, `std: [1, 1, 1]` if "
                "colours are not divided"
            )
        if bytes_[0] and max(std) < 1:
            raise BlobexError(
                f"mean is of colours from 0 to 255 and std from 0 to 1: write `mean: {_divided(mean)}` if std is right"
            )
        if not bytes_[0] and mean and any(mean):
            raise BlobexError(
                f"std is of colours from 0 to 255 and mean from 0 to 1: write `std: {_divided(std)}` if mean is right"
            )
        return tuple(value / 255 for value in mean), tuple(value / 255 for value in std)


def read_card(path: Path) -> Card:
    """Read a card; BlobexError, which names the key, if the file cannot be read or holds no valid card."""
    try:
        tree = read_yaml(path)
        text = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)  # all scalars are texts
    except (OSError, ValueError) as error:
        raise BlobexError(f"cannot read the card {path}: {brief(error)}") from error
    if not isinstance(tree, dict) or "model" not in tree:
        raise BlobexError(f"the card {path} names no model: write `model:` and a reference")
    try:
        if "outputs" in tree:
            tree["outputs"] = _output_names(tree["outputs"], text["outputs"])
        card = parse(Card, tree, "card")
        card.input(Input())  # raises if mean or std are invalid
    except BlobexError as error:
        raise BlobexError(f"{path}: {error}") from error
    if card.model.endswith((".yaml", ".yml")):
        raise BlobexError(f"{path} names another card: copy the keys of that card into it")
    return card


def _divided(values: tuple[float, ...]) -> list[float]:
    return [round(value / 255, 6) for value in values]


def _output_names(outputs: Any, text: Any) -> Any:
    """Return the list of names in `outputs` as they are written, since YAML reads no as false and 1.0 as a number.

    A mapping of numbers to names, or of names to numbers, becomes the list; other values are left to the parser.
    """
    if isinstance(outputs, Mapping):
        names = ordered_names(text) or ordered_names({number: name for name, number in text.items()})
        if names is None:
            numbered = all(str(key).isdecimal() for key in text)
            line = brief(", ".join(map(str, text.values() if numbered else text)), 100)
            raise BlobexError(f"card.outputs is a mapping, not from 0, 1, ... to names: write `outputs: [{line}]`")
        return list(names)
    if isinstance(outputs, str):
        raise BlobexError(f"card.outputs is a text: write `outputs: [{outputs}]`")
    if not isinstance(outputs, list):
        return outputs
    plain = (list, dict, type(None))
    return [item if isinstance(item, plain) else name for item, name in zip(outputs, text, strict=True)]
