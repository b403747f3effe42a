"""Fixed images on which models are tried: smooth and noisy, dark and bright."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from blobex.config.data import ImageSize

SEED = 25
PATCHES = 4  # a side of a smooth image


def probe_images(size: ImageSize, device: torch.device) -> Tensor:
    """Return four images (4,3,H,W) in [-1,1], the same on all machines: dark, bright, of high contrast, and noise.

    >>> probe_images(ImageSize(16, 2), torch.device("cpu")).shape
    torch.Size([4, 3, 16, 32])
    """
    random = torch.Generator().manual_seed(SEED)
    patches = torch.rand(3, 3, PATCHES, PATCHES, generator=random) * 2 - 1
    smooth = F.interpolate(patches, (size.height, size.width), mode="bilinear", align_corners=False)
    noise = torch.rand(1, 3, size.height, size.width, generator=random) * 2 - 1
    shades = torch.stack([smooth[0] * 0.3 - 0.6, smooth[1] * 0.3 + 0.6, (3 * smooth[2]).clamp(-1, 1)])
    return torch.cat([shades, noise]).to(device)
