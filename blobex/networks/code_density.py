"""Density of appearance codes: how usual a blob's appearance is among those of real images.

One mixture of Gaussians per group of blobs that look alike, with one shared covariance: that of probabilistic principal
components (Tipping & Bishop, 1999, equations 7 and 8) within the clusters of a k-means.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from blobex.core.errors import BlobexError

CLUSTERS, COMPONENTS = 6, 24  # at most; fewer for few codes
PER_CLUSTER, PER_COMPONENT = 20, 4  # codes that each needs
USUAL = 0.95  # share of the real codes whose energy counts as usual
NOISE = 1e-4  # least variance


@dataclass(frozen=True)
class CodeDensity:
    """Mixture density of codes of length C for each of B blobs; blobs that look alike share theirs.

    The energy of a code c is -log sum_m weight_m exp(-|whitening (c - mean_m)|^2 / 2) / C.
    """

    means: Tensor  # B,M,C
    log_weights: Tensor  # B,M: -inf pads
    whitening: Tensor  # B,C,C
    usual: Tensor  # B: energy up to which a code is usual; inf: nothing is known about the blob

    @classmethod
    def fit(cls, codes: Tensor, present: Tensor, alike: Sequence[int]) -> CodeDensity:
        """Fit the density to codes (E,B,C) of visible blobs `present` (E,B) bool; `alike` (B) numbers their groups.

        Raises BlobexError if the codes are not finite.
        """
        if not codes.isfinite().all():
            raise BlobexError("the stored appearance codes are not finite: run `dvc repro blobgan_pretrain` again")
        groups = torch.tensor(alike)
        fitted = {}
        for group in groups.unique().tolist():
            members = groups == group
            fitted[group] = _fit_group(codes[:, members][present[:, members]].double(), codes.shape[2])
        return cls(*(torch.stack([fitted[group][part] for group in alike]).float() for part in range(4)))

    def to(self, device: torch.device | str) -> CodeDensity:
        return CodeDensity(*(tensor.to(device) for tensor in vars(self).values()))

    def energy(self, codes: Tensor) -> Tensor:
        """Return the energies (N,B) of codes (N,B,C)."""
        offsets = codes[:, :, None] - self.means  # N,B,M,C
        squared = torch.einsum("nbmc,bcd->nbmd", offsets, self.whitening).square().sum(3)
        return -torch.logsumexp(self.log_weights - squared / 2, dim=2) / codes.shape[2]

    def excess(self, codes: Tensor) -> Tensor:
        """Return how far the energies (N,B) of codes (N,B,C) exceed what is usual; 0 for usual codes."""
        return (self.energy(codes) - self.usual).clamp(min=0)


def _fit_group(codes: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Fit means (CLUSTERS,C), log weights (CLUSTERS,), whitening (C,C) and usual energy () to codes (n,C)."""
    from scipy.cluster.vq import kmeans2  # slow to import

    means = codes.new_zeros(CLUSTERS, length)
    log_weights = codes.new_full((CLUSTERS,), -torch.inf)
    if len(codes) < PER_CLUSTER:
        log_weights[0] = 0.0
        return means, log_weights, torch.eye(length, dtype=codes.dtype), codes.new_tensor(torch.inf)
    clusters = min(CLUSTERS, len(codes) // PER_CLUSTER)
    spread = np.random.default_rng(0).normal(scale=1e-9, size=codes.shape)  # k-means needs distinct points
    centres, labels = kmeans2(codes.numpy() + spread, clusters, seed=0, minit="++")
    assigned = torch.from_numpy(labels).long()
    counts = assigned.bincount(minlength=clusters)
    used = counts > 0
    means[:clusters][used] = torch.from_numpy(centres)[used]
    log_weights[:clusters][used] = (counts[used] / len(codes)).log().to(codes)
    whitening = _whitening(codes - means[assigned])
    density = CodeDensity(means[None], log_weights[None], whitening[None], codes.new_zeros(1))
    energies = density.energy(codes[:, None])[:, 0]
    return means, log_weights, whitening, energies.quantile(USUAL)


def _whitening(residuals: Tensor) -> Tensor:
    """Return the symmetric inverse square root (C,C) of the covariance of residuals (n,C)."""
    count, length = residuals.shape
    kept = min(COMPONENTS, count // PER_COMPONENT, length - 1)
    _, values, axes = torch.linalg.svd(residuals / math.sqrt(count), full_matrices=False)
    variances = values.square()
    noise = (variances[kept:].sum() / (length - kept)).clamp(min=NOISE)
    scales = variances[:kept].clamp(min=float(noise)).rsqrt() - noise.rsqrt()
    return noise.rsqrt() * torch.eye(length, dtype=residuals.dtype) + axes[:kept].T * scales @ axes[:kept]
