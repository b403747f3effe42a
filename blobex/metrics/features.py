"""Sets of features, as the measures that compare two of them want them."""

from __future__ import annotations

from torch import Tensor

from blobex.core.errors import BlobexError


def feature_sets(*sets: Tensor, least: int) -> list[Tensor]:
    """The sets in float64, where they are.

    BlobexError unless each is (N,D) with one D and N of `least` or more, and all features are finite.

    >>> import torch
    >>> [each.dtype for each in feature_sets(torch.zeros(3, 2), torch.zeros(4, 2), least=3)]
    [torch.float64, torch.float64]
    """
    for features in sets:
        if features.dim() != 2 or features.shape[1:] != sets[0].shape[1:]:
            shapes = " and ".join("x".join(map(str, each.shape)) for each in sets)
            raise BlobexError(f"feature sets of shapes {shapes} cannot be compared: give one row of features a picture")
        if len(features) < least:
            raise BlobexError(f"a feature set has {len(features)} pictures: this measure needs {least} or more")
        if not features.isfinite().all():
            raise BlobexError("some features are not finite: the pictures or the feature network are broken")
    return [features.detach().double() for features in sets]
