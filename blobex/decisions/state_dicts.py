"""Fitting of state dicts, as programs save them, to the architecture that they belong to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from blobex.core.errors import BlobexError

COMPILED = "_orig_mod."  # torch.compile puts it before the names of what it compiles, at any depth
PARTS = ("weight", "bias")
COUNTER = ".num_batches_tracked"  # of batch normalisation; older files lack it, and inference does not read it


def fitted(
    tree: Mapping[str, Any], expected: Mapping[str, Tensor], head: str, rename: Callable[[str], str] = str
) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by the names of an architecture.

    The state dict is the file itself or one of its items. Names may stand behind a common prefix, such as `module.`
    (DataParallel), `model.` or `net.` (Lightning) and `backbone.`; tensors outside the prefix are left out. The last
    layer may have another name and another number of rows: it is then the only layer of its shape that the
    architecture lacks, as in Sequential(Dropout, Linear). One saved without a bias gets a bias of zeros.

    Args:
        tree: Content of the file.
        expected: State dict of the architecture.
        head: Name of its last layer.
        rename: Name in the architecture of a tensor by its name in the file, prefix apart.

    Raises:
        BlobexError: if the file holds no tensors.
    """
    states = [state for item in (tree, *tree.values()) if (state := _tensors(item, rename))]
    if not states:
        raise BlobexError("it holds no state dict: save model.state_dict() with torch.save")
    matches = [(*_prefix(state, expected), state) for state in states]
    prefix, _, state = max(matches, key=lambda match: match[1])  # the first of equals
    own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    everything = {key: value for key, value in state.items() if not key.startswith(prefix)} | own
    layers = [] if f"{head}.weight" in own else _heads(everything, expected, head)
    if len(layers) != 1:
        return own
    own = {key: value for key, value in own.items() if key.rpartition(".")[0] != layers[0]}
    own |= {f"{head}.{part}": everything[key] for part in PARTS if (key := f"{layers[0]}.{part}") in everything}
    if f"{head}.bias" in expected and f"{head}.bias" not in own:
        own[f"{head}.bias"] = torch.zeros(len(own[f"{head}.weight"]))
    return own


def first_difference(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str | None:
    """Return a sentence part about the first tensor, in the architecture's order, that does not fit; None if all do."""
    for key, tensor in expected.items():
        if key not in state:
            if key.endswith(COUNTER):
                continue
            return f"the file lacks {key}"
        if state[key].shape != tensor.shape:
            return f"{key} is {_size(state[key])} in the file and {_size(tensor)} in the model"
    unknown = next((key for key in state if key not in expected), None)
    return unknown and f"the model has no {unknown}"


def _tensors(item: object, rename: Callable[[str], str]) -> dict[str, Tensor]:
    """Return the tensors of a mapping, by names without those of torch.compile; none of anything else."""
    if not isinstance(item, Mapping):
        return {}
    return {rename(str(key).replace(COMPILED, "")): value for key, value in item.items() if isinstance(value, Tensor)}


def _prefix(names: Iterable[str], expected: Mapping[str, Tensor]) -> tuple[str, int]:
    """Return the prefix behind which most of the expected names stand, and their number."""
    counts = Counter({"": 0})
    for name in names:
        counts.update(name[:start] for start in _starts(name) if name[start:] in expected)
    return max(counts.items(), key=lambda item: item[1])  # the first of equals


def _starts(name: str) -> Iterator[int]:
    yield 0
    yield from (place + 1 for place, letter in enumerate(name) if letter == ".")


def _heads(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], head: str) -> list[str]:
    """Return the layers that could be the last one: unknown to the architecture, with the inputs of its head."""
    shape = expected[f"{head}.weight"].shape[1:]
    weights = [key for key, tensor in state.items() if key not in expected and key.endswith(".weight")]
    return [key.removesuffix(".weight") for key in weights if state[key].ndim > 1 and state[key].shape[1:] == shape]


def _size(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a number"
