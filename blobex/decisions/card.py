"""Decision cards: YAML files that name a model to explain and describe its input and outputs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from blobex.config.read import parse, read_yaml
from blobex.config.value_types import SECTION, Float, Int, Names, Text
from blobex.core.errors import BlobexError, brief
from blobex.decisions.decision import Input, Kind, Resize


@dataclass(frozen=True, config=SECTION)
class Card:
    """Keys of a card. All but `model` are optional: null leaves the value of the reference itself."""

    model: Text  # a reference for `load`; file names are relative to the card
    kind: Kind | None
    outputs: Names[Text] | None  # one name per logit
    height: Annotated[Int, Field(ge=1, le=8192)] | None  # of the model's input images
    width: Annotated[Int, Field(ge=1, le=8192)] | None
    mean: list[Annotated[Float, Field(ge=-10, le=10)]] | None  # of colours in 0..1: red, green, blue
    std: list[Annotated[Float, Field(ge=1e-4, le=10)]] | None
    resize: Resize | None

    @property
    def is_empty(self) -> bool:
        """Whether all keys but `model` are null."""
        return all(getattr(self, field.name) is None for field in dataclasses.fields(self) if field.name != "model")

    def input(self, default: Input) -> Input:
        """Return the model's input, with the values of `default` for null keys; a single size sets both."""
        sized = self.height is not None or self.width is not None
        return Input(
            height=self.height if sized else default.height,
            width=self.width if sized else default.width,
            mean=tuple(self.mean or default.mean),
            std=tuple(self.std or default.std),
            resize=self.resize or default.resize,
        )


def read_card(path: Path) -> Card:
    """Read a card; BlobexError, which names the key, if the file cannot be read or holds no valid card."""
    try:
        tree = read_yaml(path)
    except (OSError, ValueError) as error:
        raise BlobexError(f"cannot read the card {path}: {brief(error)}") from error
    if not isinstance(tree, dict) or "model" not in tree:
        raise BlobexError(f"the card {path} names no model: write `model:` and a reference")
    empty = dict.fromkeys(field.name for field in dataclasses.fields(Card))
    try:
        card = parse(Card, empty | tree, "card")
        card.input(Input())  # raises if mean or std are invalid
    except BlobexError as error:
        raise BlobexError(f"{path}: {error}") from error
    if card.model.endswith((".yaml", ".yml")):
        raise BlobexError(f"{path} names another card: copy the keys of that card into it")
    return card
