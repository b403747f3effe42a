"""metadata_<i>.pt: explanations in the form of the published scripts."""

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
from blobex.networks.tensor_file import save_tensors

IMAGES_PER_FILE = 16


def write_published(folder: Path, records: Sequence[Explanation], images: int) -> None:
    """Write metadata_<i>.pt with IMAGES_PER_FILE images each."""
    each = len(records) // images
    for number, first in enumerate(range(0, images, IMAGES_PER_FILE)):
        part = records[first * each : (first + IMAGES_PER_FILE) * each]
        write_metadata(folder, number, part, len(part) // each)


def write_metadata(
    folder: Path, index: int, records: Sequence[Explanation], pictures: int, latent_enc: Tensor | None = None
) -> Path:
    """Write metadata_<index>.pt of `pictures` pictures with the published keys.

    Reload it with `torch.load(path, weights_only=True)`.

    `image_names`; `blob_optim`: the six tensors of the inverted layouts; `init_scores` (N,A): the decision model's
    scores of the queries; per output j in question `att_<j>`: `final_scores` and `blob_cf`, of its pictures in their
    order, and where there are C answers each, one after the other, `Assignment` (N,C,K+1): 1 where an answer changes a
    blob (column 0: the background), else 0; `latent_enc`, the encoder's w, if given. All tensors are on the CPU.
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
        layout = concatenate([record.blobs_after for record in chosen])
        content[f"att_{column}"] = {
            "final_scores": torch.stack([record.scores_after for record in chosen]),
            "blob_cf": layout.as_dict(),
        }
        answers = 1 + max(record.number for record in chosen)
        if answers > 1:
            form, before = VectorForm.of(layout), concatenate([record.blobs_before for record in chosen])
            changed = form.changed(form.flatten(layout), form.flatten(before))
            content[f"att_{column}"]["Assignment"] = changed.unflatten(0, (-1, answers)).to(torch.float32)
    path = folder / f"metadata_{index}.pt"
    with whole_file(path) as temporary:
        save_tensors(temporary, content)
    return path
