"""Maps of the blob with the largest score at each point."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from blobex.layout.blobs import BlobLayout, concatenate
from blobex.layout.splat import Canvas, score_pyramid

BATCH = 16  # layouts splatted at once


@torch.no_grad()
def dominant_blobs(layouts: Sequence[BlobLayout], canvas: Canvas) -> Tensor:
    """Return the index of the blob with the largest score at each point, int64 (N,H,W); -1 is the background."""
    batches = [concatenate(list(layouts[first : first + BATCH])) for first in range(0, len(layouts), BATCH)]
    scores = (score_pyramid(batch, canvas, canvas.height)[canvas.height] for batch in batches)
    return torch.cat([batch.argmax(1) - 1 for batch in scores])
