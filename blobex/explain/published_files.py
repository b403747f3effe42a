"""Explanations in the format of the published scripts: metadata_<i>.pt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blobex.core.files import whole_file
from blobex.explain.explanation import Explanation
from blobex.layout.blobs import concatenate
from blobex.layout.vector import VectorForm
from blobex.networks.weights import save_tensors

IMAGES_PER_FILE = 16


def write_published(folder: Path, records: Sequence[Explanation], images: int) -> None:
    """Write metadata_<i>.pt with IMAGES_PER_FILE images each."""
    count = len(records) // images
    for number, first in enumerate(range(0, images, IMAGES_PER_FILE)):
        part = records[first * count : (first + IMAGES_PER_FILE) * count]
        write_metadata(folder, number, part, len(part) // count)


def write_metadata(
    folder: Path, index: int, records: Sequence[Explanation], images: int, latent_enc: Tensor | None = None
) -> Path:
    """Write metadata_<index>.pt with the published keys; load it with `torch.load(path, weights_only=True)`.

    `image_names`; `blob_optim`: the six tensors of the inverted layouts; `init_scores` (N,A): scores of the queries;
    `latent_enc`: the encoder's w, if given; for each output j in question `att_<j>`: `final_scores` and `blob_cf` of
    its counterfactuals in their order and, with C counterfactuals per question, `Assignment` (N,C,K+1): 1 where a
    counterfactual changes a blob (column 0: the background), else 0. All tensors are on the CPU.
    """
    first = records[:: len(records) // images]
    content: dict[str, Any] = {
        "image_names": [record.image for record in first],
        "blob_optim": concatenate([record.blobs_before for record in first]).as_dict(),
        "init_scores": torch.stack([record.scores_before for record in first]),
    }
    if latent_enc is not None:
        content["latent_enc"] = latent_enc.detach().cpu()
    for column in sorted({record.column for record in records}):
        content[f"att_{column}"] = _output([record for record in records if record.column == column])
    path = folder / f"metadata_{index}.pt"
    with whole_file(path) as temporary:
        save_tensors(temporary, content)
    return path


def _output(records: Sequence[Explanation]) -> dict[str, Any]:
    layout = concatenate([record.blobs_after for record in records])
    content: dict[str, Any] = {
        "final_scores": torch.stack([record.scores_after for record in records]),
        "blob_cf": layout.as_dict(),
    }
    count = 1 + max(record.number for record in records)
    if count > 1:
        form, before = VectorForm.of(layout), concatenate([record.blobs_before for record in records])
        changed = form.changed(form.flatten(layout), form.flatten(before))
        content["Assignment"] = changed.unflatten(0, (-1, count)).to(torch.float32)
    return content
