"""Inversion: the blobs whose rendering looks, and decides, like a given picture.

The search starts at the encoder's blobs and stays near them (OCTET, Zemni et al., CVPR 2023).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from blobex.config.explain import InversionParams
from blobex.core.errors import BlobexError
from blobex.layout.blobs import BlobLayout, blob_distance
from blobex.layout.vector import VectorForm
from blobex.optim import adam
from blobex.optim.batching import State, finite_rows, float32_batch_size, in_batches, solve_in_batches, where_rows
from blobex.optim.networks import Networks

BETAS = (0.7, 0.8)  # of Adam: with few steps there is little to average over
RELATIVE_RATES = {"xs": 0.05, "ys": 0.05, "covs": 3.0, "spatial_style": 2.0}  # places lie between 0 and 1
LAST_RATE = 0.02  # of the first; the learning rate falls along a half cosine (Loshchilov & Hutter, ICLR 2017)


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

    def replaced(self, index: Tensor, others: Inversion) -> Inversion:
        """The inversion with those of the pictures `index` replaced."""

        def put(name: str) -> Any:
            value, other = getattr(self, name), getattr(others, name)
            if isinstance(value, BlobLayout):
                pairs = {key: (tensor, getattr(other, key)) for key, tensor in value.items()}
                return BlobLayout(**{key: old.index_copy(0, index, new) for key, (old, new) in pairs.items()})
            return value.index_copy(0, index, other)

        return Inversion(**{item.name: put(item.name) for item in dataclasses.fields(self)})

    def _map(self, function: Callable[[Any], Any]) -> Inversion:
        return Inversion(**{item.name: function(getattr(self, item.name)) for item in dataclasses.fields(self)})


def invert(
    images: Tensor,
    *,
    quick: Networks,
    exact: Networks,
    setup: InversionParams,
    batch_size: int,
    start: BlobLayout | None = None,
) -> Inversion:
    """The blobs of `images` (N,3,H,W) in [-1,1], `batch_size` of them at a time.

    Adam over all six keys on perceptual + l2 + decision + blobs, each a mean per picture times its weight in `setup`,
    so that no picture's result depends on the others. The decision term costs as much as all the rest: it enters for
    the last `decision_steps`. `quick` networks lead the way and `exact` ones measure the end. With no steps the result
    is the encoder's. With `start` the optimisation begins there, and stays near it, instead of at the encoder's blobs.
    """
    if images.ndim != 4 or not len(images):
        raise BlobexError(f"inversion needs pictures of shape (N,3,H,W) with N at least 1, not {tuple(images.shape)}")
    if start is None:
        rows = float32_batch_size(batch_size, images.device)
        start = BlobLayout(**in_batches(lambda part: exact.encode(part).as_dict(), rows, images))
    form = VectorForm.of(start)
    rate = form.rates(setup.learning_rate, setup.size_lr_multiplier, RELATIVE_RATES).to(images.device)
    work = _Work(images, form.flatten(start), rate, form, quick, setup)
    found = solve_in_batches(len(images), batch_size, work.load, work.advance, "inversion")
    return evaluate_layouts(images, start, form.unflatten(found["best"]), found["step"], exact, setup, batch_size)


@dataclass(frozen=True)
class _Work:
    """The steps of the optimisation, for `descent.batch_size.solve`."""

    images: Tensor
    start: Tensor  # N,D: the encoder's vectors
    rate: Tensor  # D: the first learning rates
    form: VectorForm
    networks: Networks
    setup: InversionParams

    def load(self, numbers: Tensor) -> State:
        images, start = (tensor[numbers.to(tensor.device)] for tensor in (self.images, self.start))
        with torch.no_grad():
            embedded = self.networks.perceptual.embed(images)
            state = {f"embedded_{layer}": each for layer, each in enumerate(embedded)}
            state |= {"images": images, "features": self.networks.features(images), "start": start}
        nothing = torch.zeros_like(start[:, 0])
        best = {"best": start, "loss": nothing + torch.inf, "step": nothing.long(), "late": nothing > 0}
        return adam.begin(start) | state | best

    def advance(self, state: State) -> tuple[State, Tensor]:
        vector, start, age = state["vector"], self.form.unflatten(state["start"]), state["age"]
        embedded = [state[f"embedded_{layer}"] for layer in range(sum(name.startswith("embedded_") for name in state))]
        late = (age >= self.setup.steps - self.setup.decision_steps) & (self.setup.decision_steps > 0)
        with torch.enable_grad():
            leaf = vector.detach().requires_grad_()
            layout = self.form.unflatten(leaf)
            image = self.networks.render(layout)
            terms = loss_terms(layout, start, image, state["images"], embedded, self.networks)
            loss = weighted_sum(terms, self.setup)
            if late.any():
                terms["decision"] = mean_squared_error(self.networks.features(image), state["features"])
                loss = torch.where(late, weighted_sum(terms, self.setup), loss)
            (gradient,) = torch.autograd.grad(loss.sum(), leaf)
        loss = loss.detach()
        sound = finite_rows(image.detach(), loss, vector)
        better = sound & ((late & ~state["late"]) | (loss < state["loss"]))  # with the new term losses begin anew
        state = state | where_rows(better, {"best": vector, "loss": loss, "step": age}, state) | {"late": late}
        falling = 0.5 * (1 + torch.cos(math.pi * age / max(self.setup.steps, 1)))
        rate = (LAST_RATE + (1 - LAST_RATE) * falling)[:, None] * self.rate
        return state | adam.step(state, gradient, rate, BETAS), (age >= self.setup.steps) | ~sound


def loss_terms(
    layout: BlobLayout,
    start: BlobLayout,
    image: Tensor,
    wanted: Tensor,
    embedded: Sequence[Tensor],
    networks: Networks,
) -> dict[str, Tensor]:
    """Three of the four terms (N,) of the loss: of `image`, the rendering of `layout`, to the pictures `wanted`."""
    return {
        "perceptual": networks.perceptual.distance_to(embedded, image),
        "l2": mean_squared_error(image, wanted),
        "blobs": blob_distance(layout, start),
    }


def weighted_sum(terms: Mapping[str, Tensor], setup: InversionParams) -> Tensor:
    """The loss (N,)."""
    return torch.stack([getattr(setup, name) * term for name, term in terms.items()]).sum(0)


@torch.no_grad()
def evaluate_layouts(
    images: Tensor,
    start: BlobLayout,
    found: BlobLayout,
    step: Tensor,
    networks: Networks,
    setup: InversionParams,
    batch_size: int,
) -> Inversion:
    """The record of the layouts `found`; where it is not finite, or worse than the encoder's, the encoder's instead."""
    form = VectorForm.of(start)

    def rows(encoded: Tensor, vector: Tensor, wanted: Tensor) -> State:
        embedded, features = networks.perceptual.embed(wanted), networks.features(wanted)
        state: State = {}
        for name, each in (("before", encoded), ("after", vector)):
            layout = form.unflatten(each)
            image = networks.render(layout)
            terms = loss_terms(layout, form.unflatten(encoded), image, wanted, embedded, networks)
            terms["decision"] = mean_squared_error(networks.features(image), features)
            measured = {"vector": each, "image": image, "loss": weighted_sum(terms, setup), **terms}
            state |= {f"{name} {key}": value for key, value in measured.items()}
        return state

    measures = in_batches(
        rows, float32_batch_size(batch_size, images.device), form.flatten(start), form.flatten(found), images
    )
    before, after = (
        {key.removeprefix(f"{name} "): value for key, value in measures.items() if key.startswith(name)}
        for name in ("before", "after")
    )
    before, after = before | {"step": torch.zeros_like(step)}, after | {"step": step}
    sound = [finite_rows(each["image"], each["loss"], each["vector"]) for each in (before, after)]
    better = sound[1] & (~sound[0] | (after["loss"] < before["loss"]))
    best = where_rows(better, after, before)
    layout = form.unflatten(best.pop("vector"))
    return Inversion(layout=layout, encoder_loss=before["loss"], failed=~(sound[0] | sound[1]), **best)


def mean_squared_error(first: Tensor, second: Tensor) -> Tensor:
    """(N,): the mean squared difference per picture."""
    return (first - second).square().flatten(1).mean(1)
