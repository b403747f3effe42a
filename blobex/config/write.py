"""Changes of values in a YAML parameter file that keep its comments and its layout."""

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
Changes = dict[str, tuple[Any, Value]]  # dotted key to its old and its new value


@contextmanager
def rewrite_values(path: Path, values: Mapping[str, Value]) -> Iterator[Changes]:
    """Write values at dotted keys of a parameter file when the block ends without an exception.

    Raises BlobexError before the block if the file cannot be read, or a key is missing or its value out of range.
    """
    before = flatten(load_params(path))
    text = replace_values(path.read_text(encoding="utf-8"), values)
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
        load_params(temporary)
        yield {key: (before[key], value) for key, value in values.items()}


def replace_values(text: str, values: Mapping[str, Any]) -> str:
    """Replace the values at dotted keys of a YAML text; comments inside a replaced mapping are lost.

    Raises BlobexError if a key is missing.

    >>> replace_values("run: # once\\n  seed: 0 # of all\\n", {"run.seed": 7})
    'run: # once\\n  seed: 7 # of all\\n'
    >>> replace_values("run: # once\\n  seed: 0 # of all\\n", {"run": None})
    'run: # once\\n  null\\n'
    """
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    nodes = {key: _node(root, key) for key in values}
    for key, node in sorted(nodes.items(), key=lambda item: -item[1].start_mark.index):
        rest = text[_end(node) :]
        if isinstance(node, yaml.MappingNode) and not node.flow_style and not isinstance(values[key], dict):
            rest = rest[rest.index("\n") :]  # the last comment inside
        text = text[: node.start_mark.index] + _yaml(values[key], node) + rest
    return text


def _node(root: yaml.Node | None, key: str) -> yaml.Node:
    """Return the node of the value at a dotted key."""
    node = root
    for part in key.split("."):
        children = node.value if isinstance(node, yaml.MappingNode) else []
        node = next((value for name, value in children if name.value == part), None)
    if node is None:
        raise BlobexError(f"the parameter file has no key {key}: add it (profiles/synthetic.yaml shows its place)")
    return node


def _end(node: yaml.Node) -> int:
    """Return the index behind a node; that of a block mapping does not include the comments behind it."""
    if isinstance(node, yaml.MappingNode) and not node.flow_style:
        return _end(node.value[-1][1])
    return node.end_mark.index


def _yaml(value: Any, node: yaml.Node) -> str:
    """Write a value as YAML 1.1 and 1.2 both read it, in the style of the node that it replaces."""
    if isinstance(value, dict) and value and isinstance(node, yaml.CollectionNode) and not node.flow_style:
        text = yaml.safe_dump(value, default_flow_style=None, sort_keys=False, width=10**6)
        return text.rstrip().replace("\n", f"\n{' ' * node.start_mark.column}")
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6).split("\n")[0]
