"""Reading of YAML parameter files into frozen dataclasses, and their flattening to dotted keys."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import asdict, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from blobex.config.messages import abbreviated, message
from blobex.config.params import Params
from blobex.core.errors import BlobexError, brief

T = TypeVar("T")


def load_params(path: str | Path = "params.yaml") -> Params:
    """Load a parameter file; BlobexError if it is unreadable or a key is unknown, missing, repeated or out of range."""
    try:
        return parse(Params, read_yaml(Path(path)))
    except (OSError, UnicodeDecodeError) as error:
        raise BlobexError(f"cannot read {path}: {error}; `make profile` writes a new one from profiles/") from error


def read_yaml(path: Path) -> Any:
    """Read YAML without code, repeated keys and merged mappings.

    Raises BlobexError if it is invalid, and OSError or UnicodeDecodeError if the file cannot be read.
    """
    return parse_yaml(path.read_text(encoding="utf-8"), path)


def parse_yaml(text: str, source: object) -> Any:
    """Parse YAML as `read_yaml` does; `source` names its origin in error messages."""
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except BlobexError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: an impossible date or number
        raise BlobexError(f"{source} is not valid YAML: {brief(error)}") from error


def parse(kind: type[T], tree: object, name: str = "") -> T:
    """Convert a value read from YAML or JSON to `kind`, without coercion other than of int to float.

    `kind` is a pydantic dataclass whose fields have the strict types of `value_types`, or a plain type. `tree` is, for
    a dataclass, a mapping of all its required keys and no others. Raises BlobexError, whose sentence names the key
    (below the dotted key `name`) and what is allowed, if the value is invalid.

    >>> from blobex.config.data import ImageSize
    >>> parse(ImageSize, {"height": 64, "aspect_ratio": 2})
    ImageSize(height=64, aspect_ratio=2)
    """
    adapter = _adapter(cast(Hashable, kind))
    try:
        return cast(T, adapter.validate_python(tree))
    except ValidationError as error:
        raise BlobexError(message(error, adapter, name)) from None


@lru_cache(maxsize=256)  # making one takes far longer than using it
def _adapter(kind: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(cast(Any, kind), config=None if is_dataclass(kind) else ConfigDict(strict=True))


def flatten(params: Any, prefix: str = "") -> dict[str, Any]:
    """Map the dotted key of each leaf of a dataclass or mapping to its value.

    >>> flatten({"run": {"seed": 0}, "data": {"root": "photos"}})
    {'run.seed': 0, 'data.root': 'photos'}
    """
    flat: dict[str, Any] = {}
    for key, value in (params if isinstance(params, Mapping) else asdict(params)).items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return flat


class _StrictLoader(yaml.SafeLoader):
    """Loader that reads `1e-5` as a number, as YAML 1.2 does, and rejects repeated keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        counts = Counter(key for key in keys if isinstance(key, Hashable))
        repeated = [key for key, count in counts.items() if count > 1]
        if repeated:
            key, line = abbreviated(repeated[0]), node.start_mark.line + 1
            raise BlobexError(f"key {key} occurs twice in the mapping at line {line}: keep one")
        return super().construct_mapping(node, deep)


_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)
