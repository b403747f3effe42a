"""metadata_<i>.pt: explanations in the form of the published scripts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blobex.counterfactual.result import Explanation
from blobex.files import whole_file
from blobex.layout.layout import concatenate
from blobex.networks.tensor_file import save_tensors


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
        save_tensors(temporary, content)
    return path
