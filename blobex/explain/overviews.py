"""Overviews of explanations: table, grids of images, animations, and the files of the published scripts."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from blobex.core.errors import BlobexError
from blobex.core.files import whole_file
from blobex.counterfactual.compose import Composer
from blobex.counterfactual.verify import Counterfactuals
from blobex.datasets.images import to_array, write_png
from blobex.explain.explanation import SCHEMA, Explanation
from blobex.explain.figures import Cell, Tone, grid
from blobex.explain.input_images import InvertedImages
from blobex.layout.blobs import concatenate
from blobex.layout.vector import VectorForm
from blobex.networks.weights import save_tensors
from blobex.optim.batching import State, in_batches
from blobex.optim.network_callables import Networks

TABLE = "explanations.parquet"
ROW_GROUP = 2**12  # rows of the table that are held at once
IMAGES_PER_FILE = 16  # of snapshots and metadata
FRAMES = 16  # of an animation


def write_table(folder: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write explanations.parquet from the rows of `Explanation.row`, ROW_GROUP at a time."""
    path, remaining = folder / TABLE, iter(rows)
    with whole_file(path) as temporary, pq.ParquetWriter(temporary, SCHEMA) as writer:
        for part in iter(lambda: list(itertools.islice(remaining, ROW_GROUP)), []):
            writer.write_table(pa.Table.from_pylist(part, schema=SCHEMA))
    return path


def read_table(folder: Path) -> list[dict[str, Any]]:
    """Read the rows of explanations.parquet; BlobexError if it is missing or damaged."""
    try:
        table = pq.read_table(folder / TABLE)
        if not table.schema.equals(SCHEMA):
            raise pa.ArrowInvalid("other columns")
        return table.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise BlobexError(f"cannot read {folder / TABLE}: run `blobex explain` or `dvc repro explain` first") from error


def snapshot(records: Sequence[Explanation], count: int) -> np.ndarray:
    """Draw a grid, uint8 (H,W,3), of explanations in their order, `count` per image."""
    columns = [{_title(record) for record in records[column::count]} for column in range(count)]
    titles = ["query", "reconstruction", *("/".join(sorted(names)) for names in columns)]
    rows = []
    for start in range(0, len(records), count):
        group = records[start : start + count]
        first = [record for record in group if not record.number]
        before = ", ".join(f"{record.attribute} {record.score_before:.2f}" for record in first)
        after = ", ".join(f"{record.attribute} {record.score_reconstruction:.2f}" for record in first)
        query = Cell(group[0].query, f"{Path(group[0].image).name}\n{before}")
        rows.append([query, Cell(group[0].reconstruction, after), *map(_counterfactual_cell, group)])
    return grid(titles, rows)


def write_overview(folder: Path, number: int, records: Sequence[Explanation], images: int, published: bool) -> None:
    """Write snapshot_<number>.png in 256 colours and, if `published`, metadata_<number>.pt."""
    write_png(folder / f"snapshot_{number}.png", snapshot(records, len(records) // images), colours=256)
    if published:
        write_metadata(folder, number, records, images)


def films(
    images: InvertedImages, counterfactuals: Counterfactuals, networks: Networks, photo: bool, rows: int
) -> list[list[np.ndarray]]:
    """Return for each counterfactual FRAMES frames, uint8 (H,W,3), that interpolate linearly between the layouts.

    Args:
        photo: Whether changes are pasted into the queries.
        rows: Batch size.
    """
    start, found = images.inversion.layout, counterfactuals
    if photo:
        composer = Composer.over_queries(images.queries, start, networks, rows)
    else:
        composer = Composer(networks, VectorForm.of(start), None)
    form = composer.form

    @torch.no_grad()
    def compose(vector: Tensor, image_index: Tensor, changed: Tensor) -> State:
        return {"image": composer.compose(vector, image_index, changed)}

    first, last = form.flatten(start)[found.image_index], form.flatten(found.layout)
    frames: list[list[np.ndarray]] = [[] for _ in range(len(found))]
    for weight in torch.linspace(0, 1, FRAMES).tolist():
        vectors = torch.lerp(first, last, weight)
        composed = in_batches(compose, rows, vectors, found.image_index, found.changed)["image"]
        for film, image in zip(frames, composed, strict=True):
            film.append(to_array(image.nan_to_num(0.0, 0.0, 0.0)))
    return frames


def write_metadata(folder: Path, index: int, records: Sequence[Explanation], images: int) -> Path:
    """Write metadata_<index>.pt with the published keys; load it with `torch.load(path, weights_only=True)`.

    `image_names` without folders; `blob_optim`: the six tensors of the inverted layouts; `init_scores` (N,A): scores of
    the queries or, in a published search, of the reconstructions; for each output j in question `att_<j>`:
    `final_scores` and `blob_cf` of its counterfactuals in their order and, with C counterfactuals per question,
    `Assignment` (N,C,K+1), column 0 being the background's: in a published search the softmax over the C, which
    `blob_cf` already includes; else 1 where a counterfactual changes a blob, and 0 where not. All tensors are on the
    CPU.
    """
    first = records[:: len(records) // images]
    content: dict[str, Any] = {
        "image_names": [Path(record.image).name for record in first],
        "blob_optim": concatenate([record.blobs_before for record in first]).as_dict(),
        "init_scores": torch.stack([r.scores_before if r.scores_start is None else r.scores_start for r in first]),
    }
    for column in sorted({record.column for record in records}):
        content[f"att_{column}"] = _output([record for record in records if record.column == column])
    path = folder / f"metadata_{index}.pt"
    with whole_file(path) as temporary:
        save_tensors(temporary, content)
    return path


def _title(record: Explanation) -> str:
    return f"{record.attribute} {record.number + 1}" if record.number else record.attribute


def _counterfactual_cell(record: Explanation) -> Cell:
    tone: Tone = "good" if record.verdict == "flipped" and not record.doubt else "bad"
    verdict = f"{record.verdict}, in doubt" if record.doubt else record.verdict
    words = record.sentence or (f"blobs {', '.join(record.changed_blobs)}" if record.changed_blobs else "")
    scores = f"{record.attribute} {record.score_before:.2f} -> {record.score_after:.2f}"
    return Cell(record.counterfactual, "\n".join(filter(None, [f"{scores}, {verdict}", words])), tone)


def _output(records: Sequence[Explanation]) -> dict[str, Any]:
    layout = concatenate([record.blobs_after for record in records])
    content: dict[str, Any] = {
        "final_scores": torch.stack([record.scores_after for record in records]),
        "blob_cf": layout.as_dict(),
    }
    count = 1 + max(record.number for record in records)
    if count > 1:
        form, before = VectorForm.of(layout), concatenate([record.blobs_before for record in records])
        shares = [record.shares for record in records if record.shares is not None]
        changed = form.changed(form.flatten(layout), form.flatten(before))
        assignment = torch.stack(shares) if shares else changed.to(torch.float32)
        content["Assignment"] = assignment.unflatten(0, (-1, count))
    return content
