"""From what a person asks about pictures to the goals of a search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from blobex.core.errors import BlobexError
from blobex.counterfactual.target import AttributeTarget, ClassTarget, RegionTarget, Target
from blobex.decisions.decision import Kind

Box = tuple[float, float, float, float]  # left, top, right, bottom as shares of width and height
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Questions:
    """P problems: about which picture, what its output is called, and from what to what it should change."""

    image_index: Tensor  # P
    target: Target
    outputs: tuple[str, ...]  # P names: the output in question
    before: tuple[str, ...]  # P: what it says of the query
    after: tuple[str, ...]  # P: what it should say

    def __len__(self) -> int:
        return len(self.outputs)

    def __getitem__(self, index: Tensor) -> Questions:
        """Those of these numbers (Q,), in their order."""
        numbers = index.tolist()
        words = (tuple(each[number] for number in numbers) for each in (self.outputs, self.before, self.after))
        rows = index.to(self.image_index.device)
        return Questions(self.image_index[rows], self.target[rows], *words)


def build_questions(
    kind: Kind,
    names: Sequence[str],
    said: Tensor,
    columns: Sequence[int],
    region: Box | None = None,
    replaced: int | None = None,
) -> Questions:
    """One problem per picture and column, ordered by picture.

    `names` are the model's outputs and `said` what it gave for N pictures. Attributes: each of `columns` should become
    what it is not. Classes: each of `columns` should become the likeliest; with none, the runner-up of each picture.
    Segmentation: in `region` (the whole picture if None) what is of class `replaced` (the commonest there if None)
    should become the class `columns`. BlobexError: a shape that does not belong to the kind, nothing to become or to
    replace, a region outside the picture.
    """
    wanted = 4 if kind == "segmentation" else 2
    if said.ndim != wanted or said.shape[1] != len(names):
        raise BlobexError(f"the decision model gives {tuple(said.shape[1:])} per picture: that is not {kind}")
    check_region(kind, region, replaced)
    if not columns and kind != "classes":
        raise BlobexError(f"no output to change: name one of {', '.join(names)}")
    if kind == "classes":
        return _classes(names, said, columns)
    if kind == "attributes":
        return _attributes(names, said, columns)
    return _regions(names, said, columns, WHOLE if region is None else region, replaced)


def check_region(kind: Kind, region: Box | None, replaced: object) -> None:
    """BlobexError if a region, or a class to replace, is not for this kind of model or cannot be."""
    if kind != "segmentation" and region is not None:
        raise BlobexError(f"a region is for segmentation models, and this one gives {kind}: leave the region out")
    if kind != "segmentation" and replaced is not None:
        raise BlobexError(f"only a segmentation model replaces a class, and this one gives {kind}: leave that out")
    if region is None:
        return
    if len(region) != 4 or not (0 <= region[0] < region[2] <= 1 and 0 <= region[1] < region[3] <= 1):
        raise BlobexError(f"region {region}: give left, top, right, bottom as shares of the picture from 0 to 1")


def _pairs(said: Tensor, columns: Sequence[int]) -> tuple[Tensor, Tensor]:
    """(P,) picture and (P,) column of every problem."""
    index = torch.arange(len(said), device=said.device).repeat_interleave(len(columns))
    return index, torch.tensor(columns, device=said.device).repeat(len(said))


def _attributes(names: Sequence[str], said: Tensor, columns: Sequence[int]) -> Questions:
    index, column = _pairs(said, columns)
    wanted = said[index].gather(1, column[:, None])[:, 0] <= 0
    outputs = tuple(names[number] for number in column.tolist())
    both = [(name, f"not {name}") for name in outputs]
    return Questions(
        index,
        AttributeTarget(column, wanted),
        outputs,
        before=tuple(pair[want] for pair, want in zip(both, wanted.tolist(), strict=True)),
        after=tuple(pair[not want] for pair, want in zip(both, wanted.tolist(), strict=True)),
    )


def _classes(names: Sequence[str], said: Tensor, columns: Sequence[int]) -> Questions:
    if len(names) < 2:
        raise BlobexError("the decision model has one class: nothing can be decided otherwise")
    index, column = _pairs(said, columns or [0])
    if not columns:
        column = said.topk(2).indices[:, 1]
    outputs = tuple(names[number] for number in column.tolist())
    before = tuple(names[number] for number in said.argmax(1)[index].tolist())
    return Questions(index, ClassTarget(column), outputs, before, outputs)


def _regions(
    names: Sequence[str], said: Tensor, columns: Sequence[int], region: Box, replaced: int | None
) -> Questions:
    if replaced is not None and replaced in columns:
        raise BlobexError(f"{names[replaced]} should become {names[replaced]}: name two classes")
    inside = _inside(region, *said.shape[2:]).to(said.device)
    index, column = _pairs(said, columns)
    map_ = said.argmax(1)
    commonest = torch.stack([each[inside].bincount(minlength=len(names)).argmax() for each in map_])
    old = commonest if replaced is None else torch.full_like(commonest, replaced)
    chosen = inside & (map_ == old[:, None, None])
    empty = (~chosen.flatten(1).any(1)).nonzero()[:, 0].tolist()
    if empty:
        raise BlobexError(f"picture {empty[0]} has no {names[int(old[empty[0]])]} in the region: choose another region")
    labels = torch.where(chosen[index], column[:, None, None], map_[index])
    outputs = tuple(names[number] for number in column.tolist())
    before = tuple(names[number] for number in old[index].tolist())
    return Questions(index, RegionTarget(column, labels, chosen[index]), outputs, before, outputs)


def _inside(region: Box, height: int, width: int) -> Tensor:
    """Bool (height,width): the pixels whose centre lies in the region."""
    left, top, right, bottom = region
    x, y = (torch.arange(width) + 0.5) / width, (torch.arange(height) + 0.5) / height
    inside = ((x >= left) & (x <= right))[None] & ((y >= top) & (y <= bottom))[:, None]
    if not inside.any():
        raise BlobexError(f"region {region} is smaller than a pixel: make it larger")
    return inside
