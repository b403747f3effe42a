"""Believability of counterfactuals: visible changes, usual appearances, and decisions that disturbances do not undo.

Changes that flip a decision by a texture which nobody would notice are adversarial examples. They are fragile: noise or
a shift by a pixel undoes them (Athalye et al., ICML 2018), which a changed object survives.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from blobex.config.explain import SearchParams
from blobex.counterfactual.problems import Problems
from blobex.layout.blobs import ABSENT, BlobLayout
from blobex.optim.batching import State, in_batches
from blobex.optim.network_callables import Networks

NOISE, BRIGHTNESS, SHIFT = 0.06, 0.08, 1  # deviation and largest change of pixels in [-1,1]; largest shift in pixels
TOLERANCE = 1e-3  # of the excess


def believable(
    vectors: Tensor,
    images: Tensor,
    problems: Problems,
    networks: Networks,
    limits: SearchParams | None,
    batch_size: int,
) -> Tensor:
    """Return bool (P,): true where layout vectors (P,D) with composed images (P,3,H,W) are believable.

    With `limits.nameable`, the parser must see what changed. With `limits.density`, no changed blob may look more
    unusual than before, or than usual if it is new. All of `limits.disturbances` disturbed copies of the image must
    reach the target.
    """
    result = torch.ones(len(vectors), dtype=torch.bool, device=vectors.device)
    if limits is None:
        return result
    if limits.density and networks.excess is not None:
        changed = problems.form.changed(vectors, problems.start)
        start, end = (problems.form.unflatten(part) for part in (problems.start, vectors))
        before = torch.where(visible(start), networks.excess(start), 0)  # an absent blob looks like nothing
        result &= ~(changed & visible(end) & (networks.excess(end) > before + TOLERANCE)).any(1)
    if limits.disturbances:
        margin = _disturbed_margins(images, problems, networks, limits.disturbances, batch_size)
        result &= (margin > 0).all(1)
    rows = result.nonzero()[:, 0]
    if limits.nameable and networks.nameable is not None and len(rows):  # last, being the slowest
        queries = problems.queries[problems.image_index[rows]]
        result[rows] = networks.nameable(queries, images[rows]).to(result.device)
    return result


def _disturbed_margins(images: Tensor, problems: Problems, networks: Networks, count: int, batch_size: int) -> Tensor:
    """Compute the margins (P,count) of `count` disturbed copies of each of images (P,3,H,W)."""
    copies = torch.arange(len(images) * count)  # numbered image by image

    def decide(copies: Tensor) -> State:
        rows = [disturb(images[[copy // count]], copy % count) for copy in copies.tolist()]
        return {"outputs": networks.decide(torch.cat(rows))}

    outputs = in_batches(decide, batch_size, copies)["outputs"]
    return problems.repeated(count).target.margin(outputs).unflatten(0, (-1, count))


def visible(layout: BlobLayout) -> Tensor:
    """Return which blobs are present, bool (N,K+1); the background always is."""
    return F.pad(layout.sizes[:, 1:] > ABSENT / 2, (1, 0), value=True)


def disturb(images: Tensor, number: int) -> Tensor:
    """Return copy `number` of images (N,3,H,W): shifted, brightened or darkened, with noise; alike for all images."""
    random = torch.Generator().manual_seed(number)
    shift = torch.randint(-SHIFT, SHIFT + 1, (2,), generator=random).tolist()
    brightness = (2 * torch.rand((), generator=random).item() - 1) * BRIGHTNESS
    noise = NOISE * torch.randn(images.shape[1:], generator=random).to(images)
    return (images.roll(shift, dims=(2, 3)) + brightness + noise).clamp(-1, 1)
