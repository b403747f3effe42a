"""Blob layouts of a batch of images (BlobGAN, Epstein et al., ECCV 2022, section 3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from blobex.config.training import Jitter
from blobex.core.errors import BlobexError

KEYS = ("xs", "ys", "covs", "sizes", "features", "spatial_style")
PLAIN_KEYS = ("xs", "ys", "sizes")  # one number per blob
ABSENT = -6.0  # size of an invisible blob
BACKGROUND_KEYS = ("sizes", "features", "spatial_style")  # K+1 entries; entry 0 belongs to the background


@dataclass(frozen=True)
class BlobLayout:
    """K blobs and one background for each of N images.

    Blob k of `xs`, `ys` and `covs` is entry k+1 of the three tensors that begin with the background. Higher blobs
    stand in front. Entry 0 of `sizes` is never read.
    """

    xs: Tensor  # N,K: centre, 0 left to 1 right
    ys: Tensor  # N,K: centre, 0 top to 1 bottom
    covs: Tensor  # N,K,4: two aspect logits, then a direction vector
    sizes: Tensor  # N,K+1: size logits
    features: Tensor  # N,K+1,feature_dim: written into the generator's input grid
    spatial_style: Tensor  # N,K+1,style_dim: modulates the generator's convolutions

    def __len__(self) -> int:
        return self.xs.shape[0]

    @property
    def blobs(self) -> int:
        """Number of blobs K, without the background."""
        return self.xs.shape[1]

    def items(self) -> Iterator[tuple[str, Tensor]]:
        """Iterate over keys and tensors, in the order of KEYS."""
        return ((key, getattr(self, key)) for key in KEYS)

    def as_dict(self) -> dict[str, Tensor]:
        return dict(self.items())

    def map(self, function: Callable[[Tensor], Tensor]) -> BlobLayout:
        """Apply a function to every tensor."""
        return BlobLayout(**{key: function(tensor) for key, tensor in self.items()})

    def replace(self, tensors: Mapping[str, Tensor]) -> BlobLayout:
        """Return the layout with some tensors replaced."""
        return dataclasses.replace(self, **tensors)

    def detach(self) -> BlobLayout:
        return self.map(Tensor.detach)

    def to(self, device: torch.device | str) -> BlobLayout:
        return self.map(lambda tensor: tensor.to(device))

    def index_copy(self, axis: int, index: Tensor, others: BlobLayout) -> BlobLayout:
        """Copy `others` into the positions `index` of an axis, as `Tensor.index_copy`."""
        return BlobLayout(**{key: old.index_copy(axis, index, getattr(others, key)) for key, old in self.items()})

    def __getitem__(self, index: slice | Tensor | Sequence[int]) -> BlobLayout:
        """Select images of the batch; the result keeps its batch dimension."""
        return self.map(lambda tensor: tensor[index])


def from_dict(tensors: Mapping[str, Tensor]) -> BlobLayout:
    """Build a layout from a mapping with exactly the six keys.

    Raises:
        BlobexError: if a key is missing or unknown, or the shapes do not agree.

    >>> shapes = dict(xs=(1, 3), ys=(1, 3), covs=(1, 3, 4), sizes=(1, 4), features=(1, 4, 8), spatial_style=(1, 4, 8))
    >>> layout = from_dict({key: torch.zeros(shape) for key, shape in shapes.items()})
    >>> len(layout), layout.blobs
    (1, 3)
    """
    wrong = set(tensors) ^ set(KEYS)
    if wrong:
        raise BlobexError(f"a blob layout has the keys {', '.join(KEYS)}; check {', '.join(sorted(wrong))}")
    batch, blobs = tensors["xs"].shape if isinstance(tensors["xs"], Tensor) and tensors["xs"].ndim == 2 else (0, 0)
    for key, tensor in tensors.items():
        first, axes = (batch, blobs + (key in BACKGROUND_KEYS)), 2 if key in PLAIN_KEYS else 3
        if not isinstance(tensor, Tensor) or tensor.shape[:2] != first or tensor.ndim != axes:
            raise BlobexError(f"a blob layout cannot have such {key}: check its shape beside that of xs")
    return BlobLayout(**tensors)


def concatenate(layouts: Sequence[BlobLayout]) -> BlobLayout:
    """Concatenate layouts along the batch dimension.

    >>> layout = BlobLayout(*(torch.zeros(2, 3) for _ in KEYS))
    >>> len(concatenate([layout, layout]))
    4
    """
    return BlobLayout(**{key: torch.cat([getattr(layout, key) for layout in layouts]) for key in KEYS})


def blob_distance(layout: BlobLayout, target: BlobLayout) -> Tensor:
    """Return the sum over the six keys of the mean squared difference, per image (N,).

    Entry 0 of `sizes` is not counted, as the generator never reads it.

    >>> layout = BlobLayout(*(torch.zeros(1, 2) for _ in KEYS))
    >>> blob_distance(layout, layout.replace({"ys": torch.ones(1, 2)}))
    tensor([1.])
    """
    total = torch.zeros_like(layout.xs[:, 0])
    for (key, value), (_, wanted) in zip(layout.items(), target.items(), strict=True):
        difference = (value - wanted)[:, 1:] if key == "sizes" else value - wanted
        total = total + difference.square().flatten(1).mean(1)
    return total


def jitter(layout: BlobLayout, amount: Jitter, random: torch.Generator) -> BlobLayout:
    """Move, resize and rotate each blob by uniform amounts up to `amount`; the background is unchanged.

    The direction vector is rotated, which is exact for every angle.

    >>> xs, ys, covs = torch.tensor([[0.5]]), torch.tensor([[0.5]]), torch.tensor([[[0.0, 0.0, 1.0, 0.0]]])
    >>> layout = BlobLayout(xs, ys, covs, torch.tensor([[0.0, 8.0]]), torch.ones(1, 2, 4), torch.ones(1, 2, 4))
    >>> moved = jitter(layout, Jitter(position=0.04, size=0.5, angle=0.1), torch.Generator().manual_seed(0))
    >>> bool((moved.xs - layout.xs).abs() <= 0.04), moved.features.equal(layout.features)
    (True, True)
    """

    def uniform(like: Tensor, limit: float) -> Tensor:
        return (2 * torch.rand(like.shape, generator=random, device=random.device).to(like) - 1) * limit

    angle = uniform(layout.xs, amount.angle)
    cosine, sine = angle.cos(), angle.sin()
    ux, uy = layout.covs[..., 2], layout.covs[..., 3]
    turned = torch.stack([cosine * ux - sine * uy, sine * ux + cosine * uy], dim=-1)
    return layout.replace(
        {
            "xs": layout.xs + uniform(layout.xs, amount.position),
            "ys": layout.ys + uniform(layout.ys, amount.position),
            "sizes": layout.sizes + uniform(layout.sizes, amount.size),
            "covs": torch.cat([layout.covs[..., :2], turned], dim=-1),
        }
    )
