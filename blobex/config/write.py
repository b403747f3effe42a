"""Other values for keys of a parameter file, whose comments and layout stay."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from blobex.config.read import flatten, load_params
from blobex.core.errors import BlobexError
from blobex.core.files import whole_file

Value = int | float | str | None
Changes = dict[str, tuple[Any, Value]]  # dotted key to what it held and what it holds


@contextmanager
def rewritten(path: Path, values: Mapping[str, Value]) -> Iterator[Changes]:
    """Write values at dotted keys of a parameter file once the block has ended well; all else in it keeps its bytes.

    BlobexError, before the block: the file is missing or damaged, a key is not there, or a value is out of range. The
    file then stays as it is, and also if the block raises.
    """
    before = flatten(load_params(path))
    changed = replaced(path.read_text(encoding="utf-8"), values)
    with whole_file(path) as temporary:
        temporary.write_text(changed, encoding="utf-8")
        load_params(temporary)
        yield {key: (before[key], value) for key, value in values.items()}


def replaced(text: str, values: Mapping[str, Value]) -> str:
    """YAML text with other numbers, texts or nulls at dotted keys; BlobexError if there is no such key."""
    spans = {key: _span(text, key) for key in values}
    for key, (start, end) in sorted(spans.items(), key=lambda item: -item[1][0]):
        text = text[:start] + _written(values[key]) + text[end:]
    return text


def _span(text: str, key: str) -> tuple[int, int]:
    """Where the value of a dotted key stands."""
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    for part in key.split("."):
        children = node.value if isinstance(node, yaml.MappingNode) else []
        node = next((value for name, value in children if name.value == part), None)
    if not isinstance(node, yaml.ScalarNode):
        raise BlobexError(f"the parameter file has no value {key}: add it (profiles/synthetic.yaml shows its place)")
    return node.start_mark.index, node.end_mark.index


def _written(value: Value) -> str:
    """A number, a text or a null as YAML 1.1 and 1.2 both read it."""
    return yaml.safe_dump(value).split("\n")[0]
