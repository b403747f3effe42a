"""Explanations as records and as a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from blobex.core.errors import BlobexError
from blobex.core.files import whole_file
from blobex.counterfactual.proximity import change
from blobex.counterfactual.questions import Questions
from blobex.counterfactual.verify import Counterfactuals
from blobex.datasets.images import to_array
from blobex.explain.batch import InvertedImages
from blobex.explain.blob_changes import BlobChange, blob_changes
from blobex.explain.gate import GateResult
from blobex.inversion.inversion import Inversion
from blobex.layout.blobs import KEYS, BlobLayout

Record = TypeVar("Record", Inversion, Counterfactuals)
TOLD = 4  # blobs whose change is put into words
TABLE = "explanations.parquet"
SCHEMA = pa.schema(
    [
        ("image", pa.string()),
        ("setup", pa.string()),
        ("attribute", pa.string()),
        ("number", pa.int32()),
        ("from_class", pa.string()),
        ("to_class", pa.string()),
        ("compose", pa.string()),
        ("score_before", pa.float32()),
        ("score_reconstruction", pa.float32()),
        ("score_after", pa.float32()),
        ("score_full", pa.float32()),
        ("verdict", pa.string()),
        ("flipped", pa.bool_()),
        ("flipped_full", pa.bool_()),
        ("failed", pa.bool_()),
        ("reconstruction_agrees", pa.bool_()),
        ("gate", pa.string()),
        ("perceptual", pa.float32()),
        ("l2", pa.float32()),
        ("reconstruction_perceptual", pa.float32()),
        ("reconstruction_l2", pa.float32()),
        ("proximity", pa.float32()),
        ("step", pa.int32()),
        ("changed_blobs", pa.list_(pa.string())),
        ("changed_keys", pa.list_(pa.string())),
        ("words", pa.string()),
        ("sentence", pa.string()),
        *[(f"change_{key}", pa.float32()) for key in KEYS],
    ]
)


@dataclass(frozen=True)
class Explanation:
    """One picture and one question: what the decision was, what it became, and what changed for that.

    Scores are the attribute's or the class's probability, or the share of the region that has the class. Distances
    named `reconstruction_*` are between query and reconstruction, the others between query and counterfactual; l2 is a
    mean square over pixels in [-1,1]. Fields that end in `_full` are of the counterfactual rendered anew.
    """

    image: str
    setup: str
    attribute: str  # the output in question
    number: int  # of several counterfactuals of one question, from 0
    from_class: str  # what the model says of the query
    to_class: str  # what it should say of the counterfactual
    compose: str  # photo: the change is laid over the query; full: the picture is rendered anew
    score_before: float  # of the query
    score_reconstruction: float
    score_after: float
    score_full: float
    flipped: bool
    flipped_full: bool
    failed: bool  # nothing finite was found; never flipped
    reconstruction_agrees: bool
    gate: str  # why the reconstruction does not stand for the query; empty if it does
    skipped: bool  # not searched, because of the gate
    perceptual: float
    l2: float
    reconstruction_perceptual: float
    reconstruction_l2: float
    proximity: float
    step: int  # the step after which the counterfactual was found
    changes: dict[str, float]  # mean absolute change of each of the six keys
    blobs: tuple[BlobChange, ...]  # those that changed
    query: np.ndarray = field(repr=False, compare=False)  # the three pictures are uint8 (H,W,3)
    reconstruction: np.ndarray = field(repr=False, compare=False)
    counterfactual: np.ndarray = field(repr=False, compare=False)
    blobs_before: BlobLayout = field(repr=False, compare=False)  # of one picture, on the CPU
    blobs_after: BlobLayout = field(repr=False, compare=False)
    column: int = field(repr=False, compare=False)  # the number of the output in question
    scores_before: Tensor = field(repr=False, compare=False)  # A: all of the model's scores
    scores_after: Tensor = field(repr=False, compare=False)
    sentence: str = ""  # what a parser sees changed, in objects; empty without a parser
    objects: tuple[dict[str, Any], ...] = ()  # the same, change by change, as JSON holds it

    @property
    def changed_keys(self) -> list[str]:
        """The keys of which at least one number changed."""
        return [key for key in KEYS if self.changes[key] > 0]

    @property
    def changed_blobs(self) -> list[str]:
        """Numbers from 0, or "background"."""
        return ["background" if change.blob is None else str(change.blob) for change in self.blobs]

    @property
    def words(self) -> str:
        """What changed, blob by blob."""
        told = [change.words for change in self.blobs[:TOLD]]
        told += [f"and {len(self.blobs) - TOLD} more"] if len(self.blobs) > TOLD else []
        return "; ".join(told) or "nothing changed"

    @property
    def verdict(self) -> str:
        """What became of the decision, in a few words.

        A flip of a picture rendered anew may be the reconstruction's doing: if that is not decided as the query is. The
        change that is laid over the query begins at the query itself.
        """
        if self.failed:
            return "failed"
        if self.from_class == self.to_class:
            return "already so"
        if self.skipped:
            return "skipped"
        if not self.flipped:
            return "not flipped"
        return "flipped" if self.reconstruction_agrees or self.compose == "photo" else "flipped by the reconstruction"

    def row(self) -> dict[str, Any]:
        """The explanation's line of the table, without pictures and layouts."""
        changes = {f"change_{key}": value for key, value in self.changes.items()}
        names = [name for name in SCHEMA.names if name not in changes]
        return {name: getattr(self, name) for name in names} | changes


def explanations(
    setup: str,
    images: InvertedImages,
    questions: Questions,
    found: Counterfactuals,
    gate: GateResult,
    compose: str,
) -> list[Explanation]:
    """Return one record per counterfactual of `found`, in its order: that of `questions`, `count` of each."""
    names, queries = images.names, images.queries.cpu()
    inversion, found = _on_cpu(images.inversion), _on_cpu(found)
    count = len(found) // len(questions.outputs)
    changes = change(found.layout, inversion.layout[found.image_index])
    pictures = {index: (_picture(queries[index]), _picture(inversion.image[index])) for index in range(len(names))}
    records = []
    for answer, index in enumerate(found.image_index.tolist()):
        problem, number = divmod(answer, count)
        column = int(found.target.column[answer])
        query, reconstruction = pictures[index]
        before, after = inversion.layout[[index]].map(Tensor.clone), found.layout[[answer]].map(Tensor.clone)
        measured = {
            name: getattr(found, name)[answer].item()
            for name in ("flipped", "flipped_full", "failed", "reconstruction_agrees", "perceptual", "l2")
        }
        records.append(
            Explanation(
                image=names[index],
                setup=setup,
                attribute=questions.outputs[problem],
                number=number,
                from_class=questions.before[problem],
                to_class=questions.after[problem],
                compose=compose,
                score_before=found.scores_before[answer, column].item(),
                score_reconstruction=found.scores_start[answer, column].item(),
                score_after=found.scores_after[answer, column].item(),
                score_full=found.scores_full[answer, column].item(),
                gate=gate.reasons[problem],
                skipped=bool(gate.skipped[problem]),
                **measured,
                reconstruction_perceptual=inversion.perceptual[index].item(),
                reconstruction_l2=inversion.l2[index].item(),
                proximity=found.proximity[answer].item(),
                step=int(found.step[answer]),
                changes={key: changes[key][answer].item() for key in KEYS},
                blobs=tuple(blob_changes(before, after, found.areas_start[answer], found.areas_after[answer])),
                query=query,
                reconstruction=reconstruction,
                counterfactual=_picture(found.image[answer]),
                blobs_before=before,
                blobs_after=after,
                column=column,
                scores_before=found.scores_before[answer].clone(),
                scores_after=found.scores_after[answer].clone(),
            )
        )
    return records


def write_table(folder: Path, records: Sequence[Explanation]) -> Path:
    """Write explanations.parquet: one row per record."""
    table = pa.Table.from_pylist([record.row() for record in records], schema=SCHEMA)
    path = folder / TABLE
    with whole_file(path) as temporary:
        pq.write_table(table, temporary)
    return path


def read_table(folder: Path) -> list[dict[str, Any]]:
    """The rows of explanations.parquet; BlobexError if there is none or it is damaged."""
    try:
        table = pq.read_table(folder / TABLE)
        if not table.schema.equals(SCHEMA):
            raise pa.ArrowInvalid("other columns")
        return table.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise BlobexError(f"cannot read {folder / TABLE}: run `blobex explain` or `dvc repro explain` first") from error


def _picture(image: Tensor) -> np.ndarray:
    """(3,H,W) in [-1,1] as uint8 (H,W,3); numbers that are not finite, which only failures have, become grey."""
    return to_array(image.nan_to_num(0.0, 0.0, 0.0))


def _on_cpu(record: Record) -> Record:
    """A record whose tensors and layouts are on the CPU."""
    values = {item.name: getattr(record, item.name) for item in dataclasses.fields(record)}
    moved: dict[str, Any] = {
        name: value.detach().to("cpu") for name, value in values.items() if isinstance(value, Tensor | BlobLayout)
    }
    return dataclasses.replace(record, **moved)
