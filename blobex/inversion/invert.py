"""Inversion: the blobs whose rendering looks, and decides, like a given picture.

The search starts at the encoder's blobs and stays near them (OCTET, Zemni et al., CVPR 2023).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from blobex.config import InvertSetup
from blobex.errors import BlobexError
from blobex.inversion.descent import adam, descend, finite, join, keep_better
from blobex.layout.layout import KEYS, BlobLayout, from_dict
from blobex.losses import blob_distance

Render = Callable[[BlobLayout], Tensor]  # deterministic; (N,3,H,W), about [-1,1]
Encode = Callable[[Tensor], BlobLayout]
Features = Callable[[Tensor], Tensor]  # (N,3,H,W) to (N,D)


class Perceptual(Protocol):
    """A perceptual distance whose one side can be prepared once."""

    def embed(self, images: Tensor, /) -> Any: ...

    def distance_to(self, embedded: Any, images: Tensor, /) -> Tensor:
        """Distances (N,) between the embedded pictures and `images` (N,3,H,W)."""


@dataclass(frozen=True)
class Inversion:
    """The best iterate of each of N pictures. `image` is the rendering of `layout`, and all measures are of it."""

    layout: BlobLayout
    image: Tensor  # N,3,H,W: the reconstruction
    loss: Tensor  # N: the weighted sum of the next four
    perceptual: Tensor  # N
    l2: Tensor  # N: mean squared error over pixels in [-1,1]
    decision: Tensor  # N: mean squared error of the decision model's features
    blobs: Tensor  # N: mean squared error to the encoder's blobs, summed over the keys
    encoder_loss: Tensor  # N: the loss at the encoder's blobs
    step: Tensor  # N: the step after which the best iterate was found; 0 is the encoder's
    failed: Tensor  # N, bool: no iterate was finite, and the layout is the encoder's

    def __len__(self) -> int:
        return len(self.layout)

    def __getitem__(self, index: slice | Tensor) -> Inversion:
        """Some of the pictures."""
        return self._map(lambda value: value[index])

    def to(self, device: torch.device | str) -> Inversion:
        return self._map(lambda value: value.to(device))

    def _map(self, function: Callable[[Any], Any]) -> Inversion:
        return Inversion(**{item.name: function(getattr(self, item.name)) for item in dataclasses.fields(self)})


def invert(
    images: Tensor,
    *,
    encode: Encode,
    render: Render,
    decide_features: Features,
    perceptual: Perceptual,
    setup: InvertSetup,
    batch_size: int,
) -> Inversion:
    """The blobs of `images` (N,3,H,W) in [-1,1].

    Adam over all six keys on perceptual + l2 + decision + blobs, each a mean per picture times its weight in `setup`,
    so that no picture's result depends on the others of its batch (batches of other sizes may round
    otherwise). With no steps the result is the encoder's.
    """
    if images.ndim != 4 or not len(images):
        raise BlobexError(f"inversion needs pictures of shape (N,3,H,W) with N at least 1, not {tuple(images.shape)}")
    networks = (encode, render, decide_features, perceptual)
    return join([_invert_batch(part, *networks, setup) for part in images.split(batch_size)])


def _invert_batch(
    images: Tensor,
    encode: Encode,
    render: Render,
    decide_features: Features,
    perceptual: Perceptual,
    setup: InvertSetup,
) -> Inversion:
    with torch.no_grad():
        start = encode(images)
        embedded, features = perceptual.embed(images), decide_features(images)
    free = {key: tensor.detach().clone().requires_grad_() for key, tensor in start.items()}
    optimiser = adam(free, setup.learning_rate, setup.size_lr_multiplier)
    rates = [group["lr"] for group in optimiser.param_groups]
    best: dict[str, Tensor] = {}
    for step in tqdm(range(setup.steps + 1), desc="inversion", disable=None, leave=False):
        with torch.enable_grad():
            layout = from_dict(free)
            image = render(layout)
            terms = {
                "perceptual": perceptual.distance_to(embedded, image),
                "l2": _mean_square(image, images),
                "decision": _mean_square(decide_features(image), features),
                "blobs": blob_distance(layout, start),
            }
            loss = torch.stack([getattr(setup, name) * term for name, term in terms.items()]).sum(0)
        iterate = {name: tensor.detach().clone() for name, tensor in (free | terms).items()}
        iterate |= {"image": image.detach(), "loss": loss.detach(), "step": torch.full_like(loss, step).long()}
        iterate["sound"] = finite(image, loss, *free.values())
        best = best or iterate | {"encoder_loss": iterate["loss"]}
        better = iterate["sound"] & (~best["sound"] | (iterate["loss"] < best["loss"]))
        best |= keep_better(better, iterate, best)
        if step < setup.steps:
            _set_rates(optimiser, rates, step, setup.halve_every)
            descend(optimiser, loss)
    found = from_dict({key: best.pop(key) for key in KEYS})
    return Inversion(layout=found, failed=~best.pop("sound"), **best)


def _mean_square(first: Tensor, second: Tensor) -> Tensor:
    """(N,): the mean squared difference per picture."""
    return (first - second).square().flatten(1).mean(1)


def _set_rates(optimiser: torch.optim.Adam, rates: list[float], step: int, halve_every: int) -> None:
    factor = 0.5 ** (step // halve_every) if halve_every else 1.0
    for group, rate in zip(optimiser.param_groups, rates, strict=True):
        group["lr"] = rate * factor
