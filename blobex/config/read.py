"""From YAML to the dataclasses of this package and back; unknown, missing, repeated and out-of-range keys are errors.

Each error is one sentence that names the key and what is allowed.
"""

from __future__ import annotations

import dataclasses
import re
import reprlib
import sys
import types
import typing
from collections import Counter
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml

from blobex.config.limits import FileName, MayBeEmpty, Within
from blobex.config.params import Params
from blobex.core.errors import BlobexError, brief

T = TypeVar("T")
Limits = Within | FileName | MayBeEmpty
_VALUES = reprlib.Repr()  # a few lines of YAML can be a list of billions
_VALUES.maxlevel, _VALUES.maxstring = 2, 60


def load_params(path: str | Path = "params.yaml") -> Params:
    """The parameters in a YAML file; BlobexError names the first key that is unknown, missing or out of range."""
    try:
        return parse(Params, read_yaml(Path(path)))
    except (OSError, UnicodeDecodeError) as error:
        raise BlobexError(f"cannot read {path}: {error}; copy a file of profiles/ there") from error


def read_yaml(path: Path) -> Any:
    """What a YAML file holds; of code, of repeated keys and of merged mappings, it holds none.

    OSError and UnicodeDecodeError as they come; BlobexError for what is no YAML.
    """
    text = path.read_text(encoding="utf-8")
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except BlobexError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date or a number that cannot be
        raise BlobexError(f"{path} is not valid YAML: {brief(error)}") from error


def parse(kind: type[T], tree: object, name: str = "") -> T:
    """A mapping read from YAML as the dataclass `kind`; `name` is the key's path in error messages.

    >>> from blobex.config.data import ImageSize
    >>> parse(ImageSize, {"height": 64, "aspect_ratio": 2})
    ImageSize(height=64, aspect_ratio=2)
    """
    return typing.cast(T, _parse(kind, tree, name))


def to_dict(params: Any) -> dict[str, Any]:
    """The nested mapping that `parse` reads back as the same dataclass.

    >>> from blobex.config.data import ImageSize
    >>> to_dict(ImageSize(height=64, aspect_ratio=2))
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
        counts = Counter(key for key in keys if isinstance(key, Hashable))
        repeated = [key for key, count in counts.items() if count > 1]
        if repeated:
            raise BlobexError(f"key {shown(repeated[0])} stands twice (line {node.start_mark.line + 1} on): keep one")
        return super().construct_mapping(node, deep)


_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def shown(value: object) -> str:
    """A value as it stands in a message: its beginning, if it is long."""
    return brief(_VALUES.repr(value))


def _parse(kind: Any, value: object, name: str, limits: Limits | None = None) -> object:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _parse_dataclass(typing.cast(type, kind), value, name)
    if origin is Annotated:
        return _parse(arguments[0], value, name, arguments[1])
    if origin in (types.UnionType, typing.Union):  # only "kind or null"
        return None if value is None else _parse(arguments[0], value, name, limits)
    if origin is Literal:
        if value not in arguments:
            raise BlobexError(f"{name} is {shown(value)}: choose one of {', '.join(map(str, arguments))}")
        return value
    if origin is list:
        if not isinstance(value, list):
            raise BlobexError(f"{name} is {shown(value)}: it must be a list")
        named = arguments[0] is str or typing.get_origin(arguments[0]) is Literal
        empty = not value and not isinstance(limits, MayBeEmpty)
        items = [_parse(arguments[0], item, f"{name}[{index}]", limits) for index, item in enumerate(value)]
        if named and (empty or len(set(items)) < len(items)):
            raise BlobexError(f"{name} is {shown(value)}: list at least one, and none twice")
        return items
    if origin is dict:
        if not isinstance(value, dict):
            raise BlobexError(f"{name} is {shown(value)}: it must be a mapping")
        keys = [_parse(arguments[0], key, f"a key of {name}") for key in value]
        return {key: _parse(arguments[1], value[key], f"{name}.{key}", limits) for key in keys}
    return _parse_scalar(kind, value, name, limits)


def _parse_dataclass(kind: type, value: object, name: str) -> object:
    if not isinstance(value, dict):
        raise BlobexError(f"{name or 'params.yaml'} is {shown(value)}: it must be a mapping of keys")
    prefix = f"{name}." if name else ""
    keys = [item.name for item in dataclasses.fields(kind)]
    unknown = [brief(key, 60) for key in value if key not in keys]
    if unknown:
        raise BlobexError(f"unknown key {prefix}{unknown[0]}: the keys there are {', '.join(keys)}")
    missing = [key for key in keys if key not in value]
    if missing:
        raise BlobexError(f"missing key {prefix}{missing[0]}: add it (profiles/synthetic.yaml shows its place)")
    hints = typing.get_type_hints(kind, include_extras=True)
    return kind(**{key: _parse(hints[key], value[key], f"{prefix}{key}") for key in keys})


def _parse_scalar(kind: Any, value: object, name: str, limits: Limits | None) -> object:
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}[kind]
    if kind is float and type(value) is int and abs(value) <= sys.float_info.max:
        value = float(value)
    if type(value) is not kind or not (limits is None or limits.allows(value)) or not _is_sound(value):
        raise BlobexError(f"{name} is {shown(value)}: it must be {words}{limits or ''}")
    return value


def _is_sound(value: object) -> bool:
    """Whether a text can be a path and be printed: it has no zero byte and no half of a letter."""
    return not isinstance(value, str) or not re.search("[\0\ud800-\udfff]", value)
