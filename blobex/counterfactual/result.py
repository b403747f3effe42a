"""Explanations as records and on disk: metadata_<i>.pt per batch, explanations.parquet for all."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from blobex.counterfactual.objective import change
from blobex.counterfactual.questions import Questions
from blobex.counterfactual.search import Counterfactuals
from blobex.datasets.images import to_array
from blobex.errors import BlobexError
from blobex.files import whole_file
from blobex.inversion.invert import Inversion
from blobex.layout.layout import KEYS, BlobLayout, concatenate

Record = TypeVar("Record", Inversion, Counterfactuals)
TABLE = "explanations.parquet"
SCHEMA = pa.schema(
    [
        ("image", pa.string()),
        ("setup", pa.string()),
        ("attribute", pa.string()),
        ("from_class", pa.string()),
        ("to_class", pa.string()),
        ("score_before", pa.float32()),
        ("score_reconstruction", pa.float32()),
        ("score_after", pa.float32()),
        ("flipped", pa.bool_()),
        ("failed", pa.bool_()),
        ("reconstruction_agrees", pa.bool_()),
        ("perceptual", pa.float32()),
        ("l2", pa.float32()),
        ("reconstruction_perceptual", pa.float32()),
        ("reconstruction_l2", pa.float32()),
        ("proximity", pa.float32()),
        ("step", pa.int32()),
        ("changed_keys", pa.list_(pa.string())),
        *[(f"change_{key}", pa.float32()) for key in KEYS],
    ]
)


@dataclass(frozen=True)
class Explanation:
    """One picture and one question: what the decision was, what it became, and what changed for that.

    Scores are the attribute's or the class's probability, or the share of the region that has the class. Distances
    named `reconstruction_*` are between query and reconstruction, the others between query and counterfactual; l2 is a
    mean square over pixels in [-1,1].
    """

    image: str
    setup: str
    attribute: str  # the output in question
    from_class: str  # what the model says of the query
    to_class: str  # what it should say of the counterfactual
    score_before: float  # of the query
    score_reconstruction: float
    score_after: float
    flipped: bool
    failed: bool  # nothing finite was found; never flipped
    reconstruction_agrees: bool  # if not, the flip may be the reconstruction's error and not the change's work
    perceptual: float
    l2: float
    reconstruction_perceptual: float
    reconstruction_l2: float
    proximity: float
    step: int  # the step after which the counterfactual was found
    changes: dict[str, float]  # mean absolute change of each of the six keys
    query: np.ndarray = field(repr=False, compare=False)  # the three pictures are uint8 (H,W,3)
    reconstruction: np.ndarray = field(repr=False, compare=False)
    counterfactual: np.ndarray = field(repr=False, compare=False)
    blobs_before: BlobLayout = field(repr=False, compare=False)  # of one picture, on the CPU
    blobs_after: BlobLayout = field(repr=False, compare=False)
    column: int = field(repr=False, compare=False)  # the number of the output in question
    scores_before: Tensor = field(repr=False, compare=False)  # A: all of the model's scores
    scores_after: Tensor = field(repr=False, compare=False)

    @property
    def changed_keys(self) -> list[str]:
        """The keys of which at least one number changed."""
        return [key for key in KEYS if self.changes[key] > 0]

    @property
    def verdict(self) -> str:
        """What became of the decision, in a few words."""
        if self.failed:
            return "failed"
        if self.from_class == self.to_class:
            return "already so"
        if not self.flipped:
            return "not flipped"
        return "flipped" if self.reconstruction_agrees else "flipped by the reconstruction"

    def row(self) -> dict[str, Any]:
        """The explanation's line of the table, without pictures and layouts."""
        changes = {f"change_{key}": value for key, value in self.changes.items()}
        names = [name for name in SCHEMA.names if name not in changes]
        return {name: getattr(self, name) for name in names} | changes


def explanations(
    names: Sequence[str],
    setup: str,
    questions: Questions,
    queries: Tensor,
    inversion: Inversion,
    found: Counterfactuals,
) -> list[Explanation]:
    """One record per problem of `found`, in its order, which is that of `questions`.

    `names` and `queries` (N,3,H,W) are the pictures'.
    """
    queries, inversion, found = queries.cpu(), _on_cpu(inversion), _on_cpu(found)
    column = found.target.column.cpu()[:, None]
    scores = {when: getattr(found, f"scores_{when}").gather(1, column)[:, 0] for when in ("before", "start", "after")}
    changes = change(found.layout, inversion.layout[found.image_index])
    pictures = {index: (_picture(queries[index]), _picture(inversion.image[index])) for index in range(len(names))}
    records = []
    for problem, index in enumerate(found.image_index.tolist()):
        query, reconstruction = pictures[index]
        records.append(
            Explanation(
                image=names[index],
                setup=setup,
                attribute=questions.outputs[problem],
                from_class=questions.before[problem],
                to_class=questions.after[problem],
                score_before=scores["before"][problem].item(),
                score_reconstruction=scores["start"][problem].item(),
                score_after=scores["after"][problem].item(),
                flipped=bool(found.flipped[problem]),
                failed=bool(found.failed[problem]),
                reconstruction_agrees=bool(found.reconstruction_agrees[problem]),
                perceptual=found.perceptual[problem].item(),
                l2=found.l2[problem].item(),
                reconstruction_perceptual=inversion.perceptual[index].item(),
                reconstruction_l2=inversion.l2[index].item(),
                proximity=found.proximity[problem].item(),
                step=int(found.step[problem]),
                changes={key: changes[key][problem].item() for key in KEYS},
                query=query,
                reconstruction=reconstruction,
                counterfactual=_picture(found.image[problem]),
                blobs_before=inversion.layout[[index]].map(Tensor.clone),
                blobs_after=found.layout[[problem]].map(Tensor.clone),
                column=int(column[problem]),
                scores_before=found.scores_before[problem].clone(),
                scores_after=found.scores_after[problem].clone(),
            )
        )
    return records


def write_metadata(
    folder: Path, index: int, records: Sequence[Explanation], pictures: int, latent_enc: Tensor | None = None
) -> Path:
    """Write metadata_<index>.pt of `pictures` pictures with the published keys.

    Reload it with `torch.load(path, weights_only=True)`.

    `image_names`; `blob_optim`: the six tensors of the inverted layouts; `init_scores` (N,A): the decision model's
    scores of the queries; per output j in question `att_<j>`: `final_scores` and `blob_cf`, of its pictures in their
    order; `latent_enc`, the encoder's w, if given. All tensors are on the CPU.
    """
    first = records[:: len(records) // pictures]
    content: dict[str, Any] = {
        "image_names": [record.image for record in first],
        "blob_optim": concatenate([record.blobs_before for record in first]).as_dict(),
        "init_scores": torch.stack([record.scores_before for record in first]),
    }
    if latent_enc is not None:
        content["latent_enc"] = latent_enc.detach().cpu()
    for column in sorted({record.column for record in records}):
        chosen = [record for record in records if record.column == column]
        scores, layouts = [record.scores_after for record in chosen], [record.blobs_after for record in chosen]
        content[f"att_{column}"] = {
            "final_scores": torch.stack(scores),
            "blob_cf": concatenate(layouts).as_dict(),
        }
    path = folder / f"metadata_{index}.pt"
    with whole_file(path) as temporary:
        torch.save(content, temporary)
    return path


def write_table(folder: Path, records: Sequence[Explanation]) -> Path:
    """Write explanations.parquet: one row per picture and attribute."""
    table = pa.Table.from_pylist([record.row() for record in records], schema=SCHEMA)
    path = folder / TABLE
    with whole_file(path) as temporary:
        pq.write_table(table, temporary)
    return path


def read_table(folder: Path) -> list[dict[str, Any]]:
    """The rows of explanations.parquet; BlobexError if there is none or it is damaged."""
    try:
        return pq.read_table(folder / TABLE, schema=SCHEMA).to_pylist()
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
