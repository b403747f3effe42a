"""Questions about images as targets of a search."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from blobex.core.errors import BlobexError
from blobex.counterfactual.ranges import Range
from blobex.counterfactual.target import AttributeTarget, ClassTarget, RangeTarget, RegionTarget, Target
from blobex.decisions.decision import Kind
from blobex.optim.batching import finite_rows

Box = tuple[float, float, float, float]  # left, top, right, bottom as shares of width and height
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
UNDECIDED = "undecided"  # what a model decides whose outputs are not finite


@dataclass(frozen=True)
class Questions:
    """P questions: the image, the output in question, and the change asked for."""

    image_index: Tensor  # P
    target: Target
    outputs: tuple[str, ...]  # P names of outputs
    before: tuple[str, ...]  # P: decision about the query; UNDECIDED if an output for it is not finite
    after: tuple[str, ...]  # P: decision asked for

    def __len__(self) -> int:
        return len(self.outputs)

    @property
    def settled(self) -> Tensor:
        """Bool (P,): nothing to search, as the query is decided as asked, or not at all."""
        pairs = zip(self.before, self.after, strict=True)
        return torch.tensor([before in (after, UNDECIDED) for before, after in pairs])

    def __getitem__(self, index: Tensor) -> Questions:
        numbers = index.tolist()
        names = (tuple(texts[number] for number in numbers) for texts in (self.outputs, self.before, self.after))
        rows = index.to(self.image_index.device)
        return Questions(self.image_index[rows], self.target[rows], *names)


def build_questions(
    kind: Kind,
    names: Sequence[str],
    outputs: Tensor,
    columns: Sequence[int],
    region: Box | None = None,
    replaced: int | None = None,
    wanted: Range | None = None,
) -> Questions:
    """Build one question per image and column, ordered by image.

    Attributes: each of `columns` is inverted. Classes: each of `columns` becomes the most likely class; without columns
    the runner-up of each image. Segmentation: within `region` the pixels of class `replaced` become class `columns`.
    Regression: each of `columns` comes to lie in the range `wanted`. An image for which an output is not finite is
    UNDECIDED, and what would follow from its decision too.

    Args:
        names: Names of the model's outputs.
        outputs: The model's outputs for N images, (N,A) or (N,A,H,W).
        region: None: the whole image.
        replaced: None: the most common class of the region.

    Raises:
        BlobexError: The outputs' shape does not belong to the kind, there is nothing to change or to replace, or the
            region is outside the image.
    """
    if outputs.ndim != (4 if kind == "segmentation" else 2) or outputs.shape[1] != len(names):
        raise BlobexError(f"the decision model gives {tuple(outputs.shape[1:])} per image: that is not {kind}")
    check_region(kind, region, replaced)
    check_range(kind, wanted)
    if not columns and kind != "classes":
        raise BlobexError(f"no output to change: name one of {', '.join(names)}")
    finite = finite_rows(outputs)
    decided = torch.where(finite.view(-1, *(1,) * (outputs.ndim - 1)), outputs, 0.0)
    if kind == "classes":
        questions = _classes(names, decided, columns)
    elif kind == "attributes":
        questions = _attributes(names, decided, columns)
    elif wanted is not None:
        questions = _ranges(names, decided, columns, wanted)
    else:
        questions = _regions(names, decided, columns, WHOLE if region is None else region, replaced, finite)
    return _undecided(questions, ~finite[questions.image_index], runner_up=kind == "classes" and not columns)


def _undecided(questions: Questions, rows: Tensor, runner_up: bool) -> Questions:
    """Replace the decisions that questions `rows`, bool (P,), are about; the runner-up would be one, too."""

    def replaced(names: Sequence[str]) -> tuple[str, ...]:
        return tuple(UNDECIDED if row else name for name, row in zip(names, rows.tolist(), strict=True))

    asked_for = isinstance(questions.target, AttributeTarget) or runner_up
    return dataclasses.replace(
        questions,
        outputs=replaced(questions.outputs) if runner_up else questions.outputs,
        before=replaced(questions.before),
        after=replaced(questions.after) if asked_for else questions.after,
    )


def check_region(kind: Kind, region: Box | None, replaced: object) -> None:
    """Raise BlobexError if the model's kind has no regions or replaced classes, or the region is invalid."""
    if kind != "segmentation" and region is not None:
        raise BlobexError(f"a region is for segmentation models, and this one gives {kind}: leave the region out")
    if kind != "segmentation" and replaced is not None:
        raise BlobexError(f"only a segmentation model replaces a class, and this one gives {kind}: leave that out")
    if region is None:
        return
    if len(region) != 4 or not (0 <= region[0] < region[2] <= 1 and 0 <= region[1] < region[3] <= 1):
        raise BlobexError(f"region {region}: give left, top, right, bottom as shares of the image from 0 to 1")


def check_range(kind: Kind, wanted: Range | None) -> None:
    """Raise BlobexError if a regression is asked without a range, or another kind of model with one."""
    if kind == "regression" and wanted is None:
        raise BlobexError("the model gives numbers: say which to reach with at_least, at_most or between")
    if kind != "regression" and wanted is not None:
        raise BlobexError(f"only a regression reaches a range of numbers, and this model gives {kind}: leave it out")


def _pairs(outputs: Tensor, columns: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return image and column, (P,) each, of every question."""
    index = torch.arange(len(outputs), device=outputs.device).repeat_interleave(len(columns))
    return index, torch.tensor(columns, device=outputs.device).repeat(len(outputs))


def _attributes(names: Sequence[str], outputs: Tensor, columns: Sequence[int]) -> Questions:
    index, column = _pairs(outputs, columns)
    wanted = outputs[index].gather(1, column[:, None])[:, 0] <= 0
    asked = tuple(names[number] for number in column.tolist())
    changes = [
        (f"not {name}", name) if want else (name, f"not {name}")
        for name, want in zip(asked, wanted.tolist(), strict=True)
    ]
    before, after = (tuple(change[place] for change in changes) for place in (0, 1))
    return Questions(index, AttributeTarget(column, wanted), asked, before, after)


def _classes(names: Sequence[str], outputs: Tensor, columns: Sequence[int]) -> Questions:
    if len(names) < 2:
        raise BlobexError("the decision model has one class: nothing can be decided otherwise")
    index, column = _pairs(outputs, columns or [0])
    if not columns:
        column = outputs.topk(2).indices[:, 1]
    asked = tuple(names[number] for number in column.tolist())
    before = tuple(names[number] for number in outputs.argmax(1)[index].tolist())
    return Questions(index, ClassTarget(column), asked, before, asked)


def _ranges(names: Sequence[str], outputs: Tensor, columns: Sequence[int], wanted: Range) -> Questions:
    index, column = _pairs(outputs, columns)
    values = outputs[index].gather(1, column[:, None])[:, 0].tolist()
    asked = tuple(names[number] for number in column.tolist())
    after = tuple(map(wanted.words, asked))
    before = tuple(
        reached if value in wanted else f"{name} {value:.3g}"
        for name, value, reached in zip(asked, values, after, strict=True)
    )
    return Questions(index, RangeTarget.of(outputs[index], column, wanted.low, wanted.high), asked, before, after)


def _regions(
    names: Sequence[str], outputs: Tensor, columns: Sequence[int], region: Box, replaced: int | None, finite: Tensor
) -> Questions:
    if replaced is not None and replaced in columns:
        raise BlobexError(f"{names[replaced]} should become {names[replaced]}: name two classes")
    inside = _inside(region, *outputs.shape[2:]).to(outputs.device)
    index, column = _pairs(outputs, columns)
    labels = outputs.argmax(1)
    common = torch.stack([image[inside].bincount(minlength=len(names)).argmax() for image in labels])
    old = common if replaced is None else torch.full_like(common, replaced)
    chosen = inside & ((labels == old[:, None, None]) | ~finite[:, None, None])
    empty = (~chosen.flatten(1).any(1)).nonzero()[:, 0].tolist()
    if empty:
        raise BlobexError(f"image {empty[0]} has no {names[int(old[empty[0]])]} in the region: choose another region")
    edited = torch.where(chosen[index], column[:, None, None], labels[index])
    asked = tuple(names[number] for number in column.tolist())
    before = tuple(names[number] for number in old[index].tolist())
    return Questions(index, RegionTarget(column, edited, chosen[index]), asked, before, asked)


def _inside(region: Box, height: int, width: int) -> Tensor:
    """Return bool (height,width): true where a pixel's centre lies in the region."""
    left, top, right, bottom = region
    x, y = (torch.arange(width) + 0.5) / width, (torch.arange(height) + 0.5) / height
    inside = ((x >= left) & (x <= right))[None] & ((y >= top) & (y <= bottom))[:, None]
    if not inside.any():
        raise BlobexError(f"region {region} is smaller than a pixel: make it larger")
    return inside
