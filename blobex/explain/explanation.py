"""Explanations: one record per image, question and counterfactual."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_args

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from blobex.config.explain import Gate, Key
from blobex.counterfactual.problems import change
from blobex.counterfactual.questions import UNDECIDED, Questions
from blobex.counterfactual.verify import Counterfactuals, SharedCounterfactuals
from blobex.datasets.images import to_array
from blobex.explain.blob_changes import BlobChange, blob_changes, repaints_scene
from blobex.explain.input_images import InvertedImages
from blobex.explain.step import Step
from blobex.inversion.inversion import Inversion
from blobex.layout.blobs import KEYS, BlobLayout
from blobex.perception.reading import SceneReading
from blobex.perception.sentences import sentence
from blobex.perception.visible import visible_differences

Record = TypeVar("Record", Inversion, Counterfactuals)
MAX_BLOBS_IN_WORDS = 4
REPAINTED = "last resort, the whole scene repainted: "
Read = Callable[[Sequence[np.ndarray]], list[SceneReading]]  # images, uint8 (H,W,3)
COLUMNS = (  # of the table
    (pa.string(), "image setup attribute"),
    (pa.int32(), "number"),
    (pa.string(), "from_class to_class compose"),
    (pa.float32(), "score_before score_reconstruction score_after score_full"),
    (pa.string(), "verdict"),
    (pa.bool_(), "flipped flipped_full failed believable reconstruction_agrees"),
    (pa.string(), "gate"),
    (pa.float32(), "perceptual l2 reconstruction_perceptual reconstruction_l2 proximity"),
    (pa.int32(), "step"),
    (pa.list_(pa.string()), "changed_blobs changed_keys"),
    (pa.string(), "words sentence"),
    (pa.float32(), " ".join(f"change_{key}" for key in get_args(Key))),
)
SCHEMA = pa.schema([(name, kind) for kind, names in COLUMNS for name in names.split()])


@dataclass(frozen=True)
class Explanation:
    """Counterfactual explanation of one output for one image.

    Scores are probabilities of the attribute or class, the share of the region that has the class, or the number of a
    regression. Distances named
    `reconstruction_*` are between query and reconstruction, all others between query and counterfactual; l2 is the
    mean squared error of pixels in [-1,1]. Fields that end in `_full` belong to the rendered layout.
    """

    image: str
    setup: str
    attribute: str  # the output in question
    number: int  # of the counterfactual among those of one question, from 0
    # Decision about the query or, in a published search, about the reconstruction; "undecided" if an output for it is
    # not finite.
    from_class: str
    to_class: str  # decision wanted for the counterfactual
    compose: str  # photo: the change is pasted into the query; full: the whole layout is rendered
    score_before: float  # of the query
    score_reconstruction: float
    score_after: float  # of the counterfactual
    score_full: float
    flipped: bool
    flipped_full: bool
    failed: bool  # the model's outputs for the query or the counterfactual are not finite; never flipped
    believable: bool  # usual appearances, and a flip that small disturbances do not undo
    reconstruction_agrees: bool  # the reconstruction is decided as the query
    gate: str  # why the gate refused the reconstruction; empty: it passed
    skipped: bool  # not searched, because of the gate
    perceptual: float
    l2: float
    reconstruction_perceptual: float
    reconstruction_l2: float
    proximity: float  # weighted distance between the layouts
    step: int  # after which the counterfactual was found
    changes: dict[str, float]  # mean absolute change of each key
    blobs: tuple[BlobChange, ...]  # changed blobs
    query: np.ndarray = field(repr=False, compare=False)  # images are uint8 (H,W,3)
    reconstruction: np.ndarray = field(repr=False, compare=False)
    counterfactual: np.ndarray = field(repr=False, compare=False)
    blobs_before: BlobLayout = field(repr=False, compare=False)  # of one image, on the CPU
    blobs_after: BlobLayout = field(repr=False, compare=False)
    column: int = field(repr=False, compare=False)  # number of the output in question
    scores_before: Tensor = field(repr=False, compare=False)  # A: all scores of the model
    scores_after: Tensor = field(repr=False, compare=False)
    # Of a published search only:
    scores_start: Tensor | None = field(default=None, repr=False, compare=False)  # A: of the reconstruction
    shares: Tensor | None = field(default=None, repr=False, compare=False)  # K+1: see `SharedCounterfactuals`
    sentence: str = ""  # the change in objects, as the parser sees it, or why it failed; empty without a parser
    objects: tuple[dict[str, Any], ...] = ()  # the same, one JSON record per object
    # The changes undone one after the other; empty for one change, very many, or none that flips.
    steps: tuple[Step, ...] = field(default=(), compare=False)
    doubt: str = ""  # why the image can show no road scene; empty: nothing is wrong with it

    @property
    def changed_keys(self) -> list[str]:
        """Keys with at least one changed entry."""
        return [key for key in KEYS if self.changes[key] > 0]

    @property
    def changed_blobs(self) -> list[str]:
        """Numbers of the changed blobs, from 0, or "background"."""
        return ["background" if blob.blob is None else str(blob.blob) for blob in self.blobs]

    @property
    def words(self) -> str:
        """Changes of the blobs in words, after the doubt about the image."""
        parts = [blob.words for blob in self.blobs[:MAX_BLOBS_IN_WORDS]]
        if len(self.blobs) > MAX_BLOBS_IN_WORDS:
            parts.append(f"and {len(self.blobs) - MAX_BLOBS_IN_WORDS} more")
        changes = "; ".join(parts) or "nothing changed"
        return f"not to be trusted, as {self.doubt}: {changes}" if self.doubt else changes

    @property
    def verdict(self) -> str:
        """Outcome in a few words; the flip of a fully rendered image may be an effect of its reconstruction."""
        if self.failed:
            return "failed"
        if self.from_class == self.to_class:
            return "already so"
        if self.skipped:
            return "skipped"
        if not self.flipped:
            return "not flipped" if self.believable else "no believable change found"
        return "flipped" if self.reconstruction_agrees or self.compose == "photo" else "flipped by the reconstruction"

    def row(self) -> dict[str, Any]:
        """Return the explanation's row of the table, without images and layouts."""
        changes = {f"change_{key}": value for key, value in self.changes.items()}
        return {name: getattr(self, name) for name in SCHEMA.names if name not in changes} | changes


def build_explanations(
    setup: str,
    images: InvertedImages,
    questions: Questions,
    found: Counterfactuals,
    gate: GateResult,
    compose: str,
    published: bool = False,
) -> list[Explanation]:
    """Build one record per counterfactual, in their order: that of the questions, the same number of each.

    `published`: the counterfactuals are of a published search.
    """
    queries, inversion, found = images.queries.cpu(), _on_cpu(images.inversion), _on_cpu(found)
    count = len(found) // len(questions.outputs)
    changes = change(found.layout, inversion.layout[found.image_index])
    arrays = [(_array(queries[image]), _array(inversion.image[image])) for image in range(len(images))]
    records = []
    for row, image in enumerate(found.image_index.tolist()):
        (problem, number), column = divmod(row, count), int(found.target.column[row])
        query, reconstruction = arrays[image]
        before, after = inversion.layout[[image]].map(Tensor.clone), found.layout[[row]].map(Tensor.clone)
        copied = ["flipped", "flipped_full", "failed", "believable", "reconstruction_agrees"]
        copied += ["perceptual", "l2", "proximity"]
        records.append(
            Explanation(
                image=images.names[image],
                setup=setup,
                attribute=questions.outputs[problem],
                number=number,
                from_class=questions.before[problem],
                to_class=questions.after[problem],
                compose=compose,
                score_before=found.scores_before[row, column].item(),
                score_reconstruction=found.scores_start[row, column].item(),
                score_after=found.scores_after[row, column].item(),
                score_full=found.scores_full[row, column].item(),
                gate=gate.reasons[problem],
                skipped=bool(gate.skipped[problem]),
                **{name: getattr(found, name)[row].item() for name in copied},
                reconstruction_perceptual=inversion.perceptual[image].item(),
                reconstruction_l2=inversion.l2[image].item(),
                step=int(found.step[row]),
                changes={key: changes[key][row].item() for key in KEYS},
                blobs=tuple(blob_changes(before, after, found.areas_start[row], found.areas_after[row])),
                query=query,
                reconstruction=reconstruction,
                counterfactual=_array(found.image[row]),
                blobs_before=before,
                blobs_after=after,
                column=column,
                scores_before=found.scores_before[row].clone(),
                scores_after=found.scores_after[row].clone(),
                scores_start=found.scores_start[row].clone() if published else None,
                shares=found.shares[row].clone() if isinstance(found, SharedCounterfactuals) else None,
            )
        )
    return records


def add_sentences(records: Sequence[Explanation], read: Read) -> list[Explanation]:
    """Add `sentence` and `objects`: what `read` sees changed since the query or, if rendered, the reconstruction.

    What changed most comes first, and what the parser reads otherwise though its pixels stay is left out. The sentence
    says so if the whole scene was repainted: the search does this only if no change of objects flips.
    """
    images = [record.query if record.compose == "photo" else record.reconstruction for record in records]
    results = [record.counterfactual for record in records]
    changes = [visible_differences(*each) for each in zip(read(images), read(results), images, results, strict=True)]
    objects = [tuple(change.as_dict() for change in found) for found in changes]
    texts = [
        REPAINTED * repaints_scene(record.blobs) + sentence(found)
        for record, found in zip(records, changes, strict=True)
    ]
    rows = zip(records, texts, objects, strict=True)
    return [dataclasses.replace(record, sentence=text, objects=things) for record, text, things in rows]


def add_failures(records: Sequence[Explanation], model: str) -> list[Explanation]:
    """Let the `sentence` of failed records say which model failed on which photo; they name no objects."""

    def reason(record: Explanation) -> str:
        if record.from_class == UNDECIDED:
            return f"the model {model} gives NaN or infinity for {record.image}: there is no decision to explain"
        return f"the model {model} gives NaN or infinity for every change of {record.image} that was tried"

    return [
        dataclasses.replace(record, sentence=reason(record), objects=()) if record.failed else record
        for record in records
    ]


@dataclass(frozen=True)
class GateResult:
    """Outcome of the gate for each of P questions."""

    reasons: Sequence[str]  # why the reconstruction was refused; empty: it passed
    skip: bool = False  # whether refused questions are left out of the search

    @property
    def refused(self) -> Tensor:
        """Bool (P,)."""
        return torch.tensor([bool(reason) for reason in self.reasons])

    @property
    def skipped(self) -> Tensor:
        """Bool (P,): questions that are not searched."""
        return self.refused & self.skip


def check_reconstructions(questions: Questions, outputs: Tensor, perceptual: Tensor, gate: Gate) -> GateResult:
    """Apply the gate to the reconstructions.

    Args:
        outputs: Model outputs (N,A) or (N,A,H,W) of the reconstructions; of the queries if the questions are about
            the reconstructions.
        perceptual: Distances (N,) from query to reconstruction.
    """
    limit, index = gate.perceptual, questions.image_index
    reached = (questions.target.margin(outputs[index]) > 0).tolist()
    reasons = []
    for problem, distance in enumerate(perceptual[index].tolist()):
        if reached[problem] and questions.before[problem] not in (questions.after[problem], UNDECIDED):
            reasons.append("already decided otherwise")
        else:
            reasons.append("" if limit is None or distance <= limit else f"further off than {limit}")
    return GateResult(reasons, skip=gate.action == "skip")


def _array(image: Tensor) -> np.ndarray:
    """Convert (3,H,W) in [-1,1] to uint8 (H,W,3); values that are not finite, as in failures, become grey."""
    return to_array(image.nan_to_num(0.0, 0.0, 0.0))


def _on_cpu(record: Record) -> Record:
    values = ((name, value) for name, value in vars(record).items() if isinstance(value, Tensor | BlobLayout))
    moved: dict[str, Any] = {name: value.detach().to("cpu") for name, value in values}
    return dataclasses.replace(record, **moved)
