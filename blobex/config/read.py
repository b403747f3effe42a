"""From YAML to the dataclasses of this package and back; unknown, missing, repeated and out-of-range keys are errors.

Each error is one sentence that names the key and what is allowed.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml

from blobex.config.limits import MayBeEmpty, Within
from blobex.config.params import Params
from blobex.errors import BlobexError

T = TypeVar("T")


def load_params(path: str | Path = "params.yaml") -> Params:
    """The parameters in a YAML file; BlobexError names the first key that is unknown, missing or out of range."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BlobexError(f"cannot read {path}: {error}; copy a file of profiles/ there") from error
    try:
        tree = yaml.load(text, Loader=_StrictLoader)
    except BlobexError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date or a number that cannot be
        raise BlobexError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    return parse(Params, tree)


def parse(kind: type[T], tree: object, name: str = "") -> T:
    """A mapping read from YAML as the dataclass `kind`; `name` is the key's path in error messages.

    >>> from blobex.config.data import Setup
    >>> parse(Setup, {"height": 64, "aspect_ratio": 2})
    Setup(height=64, aspect_ratio=2)
    """
    return typing.cast(T, _parse(kind, tree, name))


def to_dict(params: Any) -> dict[str, Any]:
    """The nested mapping that `parse` reads back as the same dataclass.

    >>> from blobex.config.data import Setup
    >>> to_dict(Setup(height=64, aspect_ratio=2))
    {'height': 64, 'aspect_ratio': 2}
    """
    return dataclasses.asdict(params)


def flatten(params: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted key to leaf value, as experiment trackers want parameters.

    >>> flatten({"run": {"seed": 0}, "data": {"root": "photos"}})
    {'run.seed': 0, 'data.root': 'photos'}
    """
    flat: dict[str, Any] = {}
    for key, value in to_dict(params).items() if dataclasses.is_dataclass(params) else params.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return flat


class _StrictLoader(yaml.SafeLoader):
    """YAML 1.2 floats (`1e-5` is a number), and repeated keys are errors."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        repeated = next((key for key in keys if keys.count(key) > 1), None)
        if repeated is not None:
            raise BlobexError(f"key {repeated!r} stands twice (line {node.start_mark.line + 1} on): keep one")
        return super().construct_mapping(node, deep)


_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _parse(kind: Any, value: object, name: str, limits: Within | None = None) -> object:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _parse_dataclass(typing.cast(type, kind), value, name)
    if origin is Annotated:
        return _parse(arguments[0], value, name, arguments[1])
    if origin in (types.UnionType, typing.Union):  # only "kind or null"
        return None if value is None else _parse(arguments[0], value, name, limits)
    if origin is Literal:
        if value not in arguments:
            raise BlobexError(f"{name} is {value!r}: choose one of {', '.join(map(str, arguments))}")
        return value
    if origin is list:
        if not isinstance(value, list):
            raise BlobexError(f"{name} is {value!r}: it must be a list")
        named = arguments[0] is str or typing.get_origin(arguments[0]) is Literal
        empty = not value and not isinstance(limits, MayBeEmpty)
        if named and (empty or any(value.count(item) > 1 for item in value)):
            raise BlobexError(f"{name} is {value!r}: list at least one, and none twice")
        return [_parse(arguments[0], item, f"{name}[{index}]", limits) for index, item in enumerate(value)]
    if origin is dict:
        if not isinstance(value, dict):
            raise BlobexError(f"{name} is {value!r}: it must be a mapping")
        keys = [_parse(arguments[0], key, f"a key of {name}") for key in value]
        return {key: _parse(arguments[1], value[key], f"{name}.{key}", limits) for key in keys}
    return _parse_scalar(kind, value, name, limits)


def _parse_dataclass(kind: type, value: object, name: str) -> object:
    if not isinstance(value, dict):
        raise BlobexError(f"{name or 'params.yaml'} is {value!r}: it must be a mapping of keys")
    prefix = f"{name}." if name else ""
    keys = [item.name for item in dataclasses.fields(kind)]
    unknown = [str(key) for key in value if key not in keys]
    if unknown:
        raise BlobexError(f"unknown key {prefix}{unknown[0]}: the keys there are {', '.join(keys)}")
    missing = [key for key in keys if key not in value]
    if missing:
        raise BlobexError(f"missing key {prefix}{missing[0]}: add it (profiles/synthetic.yaml shows its place)")
    hints = typing.get_type_hints(kind, include_extras=True)
    return kind(**{key: _parse(hints[key], value[key], f"{prefix}{key}") for key in keys})


def _parse_scalar(kind: Any, value: object, name: str, limits: Within | None) -> object:
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}[kind]
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind or (limits and not limits.minimum <= typing.cast(float, value) <= limits.maximum):
        raise BlobexError(f"{name} is {value!r}: it must be {words}{limits or ''}")
    return value
