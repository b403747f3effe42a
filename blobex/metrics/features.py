"""Checks of feature sets that are to be compared."""

from __future__ import annotations

from torch import Tensor

from blobex.core.errors import BlobexError


def feature_sets(*sets: Tensor, least: int) -> list[Tensor]:
    """Convert feature sets (N,D) to float64 and check that they can be compared; N may differ.

    Raises BlobexError if the sets differ in D, one has fewer than `least` rows, or a feature is not finite.

    >>> import torch
    >>> [features.dtype for features in feature_sets(torch.zeros(3, 2), torch.zeros(4, 2), least=3)]
    [torch.float64, torch.float64]
    """
    for features in sets:
        if features.dim() != 2 or features.shape[1:] != sets[0].shape[1:]:
            shapes = " and ".join("x".join(map(str, each.shape)) for each in sets)
            raise BlobexError(f"feature sets of shapes {shapes} cannot be compared: give one row of features an image")
        if len(features) < least:
            raise BlobexError(f"a feature set has {len(features)} images: this measure needs {least} or more")
        if not features.isfinite().all():
            raise BlobexError("some features are not finite: the images or the feature network are broken")
    return [features.detach().double() for features in sets]
