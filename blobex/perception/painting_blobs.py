"""Choice of the blobs that paint a region of an image."""

from __future__ import annotations

import torch
from torch import Tensor

from blobex.core.errors import BlobexError

SHARE = 0.1  # least share of the region that a blob must paint to be chosen
INSIDE, LEAST_INSIDE = 0.5, 0.02  # or this share of all that it paints lies there, and it paints that share of it
LAST_RESORT = 0.05  # share of the region that the strongest blob must paint if no other is chosen
BACKGROUND = 0.5  # share of the region that the background must paint to count


def painting_blobs(
    scores: Tensor, region: Tensor, share: float = SHARE, background: bool = False
) -> tuple[list[list[int]], list[bool]]:
    """Choose the blobs, numbered from 0, that paint a region of each of N images, and whether its background counts.

    A blob is chosen if it paints at least the share `share` of the region, or at least 2% of it and nowhere more than
    there. If none does, the strongest is chosen, if it paints more than 5%. The background counts if `background`
    allows it and it paints more than half.

    Args:
        scores: Score maps (N,K+1,H,W) of the layouts, background first.
        region: Bool (N or 1,H,W).

    Raises:
        BlobexError: if a region is empty or of another size, or nothing that is allowed paints it.

    >>> scores = torch.tensor([0.19, 0.8, 0.01])[None, :, None, None].expand(1, 3, 2, 2)  # background and two blobs
    >>> painting_blobs(scores, torch.ones(1, 2, 2, dtype=torch.bool))
    ([[0]], [False])
    """
    count, (height, width) = len(scores), scores.shape[2:]
    if region.dtype != torch.bool or region.shape not in ((1, height, width), (count, height, width)):
        raise BlobexError(
            f"a region of {count} images is bool ({count} or 1,{height},{width}), not {tuple(region.shape)}"
        )
    if not region.flatten(1).any(1).all():
        raise BlobexError("a region has no pixel: make it larger")
    region = region.expand(count, -1, -1).to(scores.device)
    inside = torch.einsum("nkhw,nhw->nk", scores.double(), region.double())
    of_region = inside / region.sum((1, 2))[:, None]  # N,K+1: share of the region that each paints
    of_itself = inside / scores.double().sum((2, 3)).clamp(min=torch.finfo(torch.double).tiny)
    chosen = (of_region >= share) | ((of_itself >= INSIDE) & (of_region >= LEAST_INSIDE))
    strongest = of_region[:, 1:].argmax(1)
    blobs, backgrounds = list[list[int]](), (of_region[:, 0] > BACKGROUND).tolist()
    for image in range(count):
        numbers = chosen[image, 1:].nonzero()[:, 0].tolist()
        if not numbers and of_region[image, 1 + strongest[image]] > LAST_RESORT:
            numbers = [int(strongest[image])]
        if not numbers and not (backgrounds[image] and background):
            which = f" of image {image}" if count > 1 else ""
            what = "the background: allow it" if backgrounds[image] else "many blobs, each a little: name some"
            raise BlobexError(f"the region{which} is painted by {what} or choose another region")
        blobs.append(numbers)
    return blobs, [painted and background for painted in backgrounds]
