"""How alike a query and its counterfactual are to a feature network; SimSiam's features give S3."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from blobex.core.errors import BlobexError
from blobex.networks.external import EXTERNAL, require
from blobex.networks.parser import load_parser
from blobex.networks.simsiam import load_simsiam

Features = Callable[[Tensor], Tensor]  # pictures (N,3,H,W) in [-1,1] to features (N,D)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine similarities (N,) float64, -1 to 1, of the rows of two matrices (N,D). A NaN stays one.

    BlobexError for different shapes, or a row of zeros, which has no direction.

    >>> cosine(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])).tolist()
    [0.0]
    """
    if a.shape != b.shape or a.ndim != 2:
        raise BlobexError(f"features {tuple(a.shape)} and {tuple(b.shape)} must have one shape (N,D)")
    a, b = a.double(), b.double()
    lengths = torch.stack([a.norm(dim=1), b.norm(dim=1)])
    empty = torch.nonzero((lengths == 0).any(0))[:, 0]
    if len(empty):
        raise BlobexError(f"the features of pair {int(empty[0])} are all zero: the feature network is broken")
    return (a * b).sum(1).div(lengths.prod(0)).clamp(-1, 1)


@torch.no_grad()
def similarity(queries: Tensor, counterfactuals: Tensor, features: Features, batch_size: int = 32) -> Tensor:
    """Cosine similarities (N,) of the features of pictures (N,3,H,W) in [-1,1].

    With SimSiam's features: S3 (Jeanneret et al., "Diffusion Models for Counterfactual Explanations", ACCV 2022, and
    "Adversarial Counterfactual Visual Explanations", CVPR 2023). BlobexError for pictures of different shapes.

    >>> picture = torch.rand(1, 3, 4, 4)
    >>> similarity(picture, picture, lambda pictures: pictures.flatten(1)).round(decimals=6).tolist()
    [1.0]
    """
    if queries.shape != counterfactuals.shape:
        raise BlobexError(
            f"queries {tuple(queries.shape)} and counterfactuals {tuple(counterfactuals.shape)} must have one shape"
        )
    parts = (slice(start, start + batch_size) for start in range(0, len(queries), batch_size))
    values = [cosine(features(queries[part]), features(counterfactuals[part])).cpu() for part in parts]
    return torch.cat(values) if values else torch.zeros(0, dtype=torch.float64)


def similarity_name(network: str) -> str:
    """What the similarity by this network's features is called: only SimSiam's is S3.

    >>> similarity_name("simsiam"), similarity_name("parser")
    ('s3', 'cosine_parser')
    """
    return "s3" if network == "simsiam" else f"cosine_{network}"


def load_similarity(network: str, parser_folder: Path, device: torch.device, external: Path = EXTERNAL) -> Features:
    """The features of network "parser" (saved in `parser_folder`), or "simsiam" from the folder `external`.

    BlobexError if the network is missing; its message says which file belongs where.
    """
    if network == "parser":
        parser = load_parser(parser_folder).to(device)
        return lambda pictures: parser.pooled_features(pictures.to(device))
    if network == "simsiam":
        simsiam = load_simsiam(require("simsiam", external)).to(device)
        return lambda pictures: simsiam(pictures.to(device))
    raise BlobexError(f"unknown feature network {network!r}: choose parser or simsiam")
