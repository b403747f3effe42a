"""Feature networks by which sets of images are compared: the parser, or Inception as clean-fid loads it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from cleanfid.inception_torchscript import InceptionV3W
from cleanfid.resize import build_resizer
from torch import Tensor

from blobex.core.errors import BlobexError
from blobex.datasets.images import to_float
from blobex.networks.external import EXTERNAL, FILES, require
from blobex.networks.parser import load_parser

FeatureNetwork = Callable[[Tensor], Tensor]  # images (N,3,H,W) uint8 to features (N,D)


def load_features(network: str, parser_folder: Path, device: torch.device, external: Path = EXTERNAL) -> FeatureNetwork:
    """Load "parser" from its folder, or "inception" or "inception_clean" (resized as clean-fid does) from `external`.

    Raises BlobexError if it is unknown, missing or damaged; the message says which file belongs where.
    """
    if network == "parser":
        parser = load_parser(parser_folder).to(device)
        return lambda images: parser.pooled_features(to_float(images.to(device)))
    if network in INCEPTION_RESIZES:
        return inception_features(require("inception", external), device, INCEPTION_RESIZES[network])
    raise BlobexError(f"unknown feature network {network!r}: choose parser, {' or '.join(INCEPTION_RESIZES)}")


def inception_features(path: Path, device: torch.device, resize: Callable[[Tensor], Tensor]) -> FeatureNetwork:
    """Load clean-fid's Inception-v3 (Parmar et al., CVPR 2022), whose features are (N,2048).

    `resize` maps images (N,3,H,W) uint8 to float (N,3,299,299), 0 to 255. Raises BlobexError if `path` is not NVIDIA's
    TorchScript file.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch.jit.load: the file exists in no other format
            network = InceptionV3W(str(path.parent), download=False).to(device)
    except (RuntimeError, AttributeError) as error:
        raise BlobexError(f"{path} is damaged or another network: put {FILES['inception'].content} there") from error
    return lambda images: network(resize(images.to(device)).to(device))


def resize_clean(images: Tensor) -> Tensor:
    """Resize images (N,3,H,W) uint8 to float (N,3,299,299), 0 to 255, by clean-fid on the CPU: PIL's bicubic filter."""
    resize = build_resizer("clean")
    resized = np.stack([resize(image) for image in images.cpu().permute(0, 2, 3, 1).numpy()])
    return torch.from_numpy(resized).permute(0, 3, 1, 2).contiguous()


def resize_fast(images: Tensor) -> Tensor:
    """Resize images as `resize_clean`, but on their device; results differ by less than 0.1 grey level."""
    return F.interpolate(images.float(), (299, 299), mode="bicubic", antialias=True, align_corners=False).clamp(0, 255)


INCEPTION_RESIZES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "inception": resize_fast,
    "inception_clean": resize_clean,
}
