"""Inversion by optimisation, from the encoder's layout (OCTET, Zemni et al., CVPR 2023, section 3.2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from blobex.config.explain import InversionParams
from blobex.core.errors import BlobexError
from blobex.inversion.inversion import Inversion
from blobex.layout.blobs import BlobLayout, blob_distance
from blobex.layout.vector import VectorForm
from blobex.optim import adam
from blobex.optim.batching import State, finite_rows, float32_batch_size, in_batches, solve_in_batches, where_rows
from blobex.optim.network_callables import NetworkPair, Networks

BETAS = (0.7, 0.8)  # of Adam: with few steps there is little to average over
RELATIVE_RATES = {"xs": 0.05, "ys": 0.05, "covs": 3.0, "spatial_style": 2.0}  # times the learning rate
LAST_RATE = 0.02  # last learning rate / first; it falls along a half cosine (Loshchilov & Hutter, ICLR 2017)
Distance = Callable[[BlobLayout, BlobLayout], Tensor]  # (N,): between two layouts of each image


def image_terms(
    layout: BlobLayout,
    start: BlobLayout,
    image: Tensor,
    query: Tensor,
    embedded: Sequence[Tensor],
    networks: Networks,
    distance: Distance = blob_distance,
) -> dict[str, Tensor]:
    """Compute all terms (N,) of the loss but that of the decision; `image` (N,3,H,W) is the rendering of `layout`."""
    l2 = mean_squared_error(image, query)
    return {
        "perceptual": networks.perceptual.distance_to(embedded, image),
        "l2": l2,
        "blobs": distance(layout, start),
        "density": torch.zeros_like(l2) if networks.excess is None else networks.excess(layout).mean(1),
    }


def weighted_sum(terms: Mapping[str, Tensor], params: InversionParams) -> Tensor:
    """Sum the terms (N,), each times its weight in `params`, in their order: that of `Tensor.sum` varies with N."""
    return reduce(torch.add, (getattr(params, name) * term for name, term in terms.items()))


def mean_squared_error(first: Tensor, second: Tensor) -> Tensor:
    """Compute the mean squared difference (N,) of each row."""
    return (first - second).square().flatten(1).mean(1)


@torch.no_grad()
def evaluate_layouts(
    queries: Tensor,
    start: BlobLayout,
    layout: BlobLayout,
    step: Tensor,
    networks: Networks,
    params: InversionParams,
    batch_size: int,
    distance: Distance = blob_distance,
) -> Inversion:
    """Evaluate layouts, found after `step` (N,) iterations, as inversions of `queries` (N,3,H,W).

    Where a layout is not finite, or has a higher loss than `start`, the inversion is `start`. `distance` is that of the
    term `blobs`.
    """
    form = VectorForm.of(start)

    def evaluate(start_vector: Tensor, vector: Tensor, query: Tensor) -> State:
        embedded, features = networks.perceptual.embed(query), networks.features(query)
        state: State = {}
        for name, each in (("start", start_vector), ("end", vector)):
            layout = form.unflatten(each)
            image = networks.render(layout)
            terms = image_terms(layout, form.unflatten(start_vector), image, query, embedded, networks, distance)
            terms["decision"] = mean_squared_error(networks.features(image), features)
            values = {"vector": each, "image": image, "loss": weighted_sum(terms, params), **terms}
            state |= {f"{name} {key}": value for key, value in values.items()}
        return state

    vectors = form.flatten(start), form.flatten(layout)
    state = in_batches(evaluate, float32_batch_size(batch_size, queries.device), *vectors, queries)
    at_start, at_end = (
        {key.removeprefix(f"{name} "): value for key, value in state.items() if key.startswith(name)}
        for name in ("start", "end")
    )
    at_start, at_end = at_start | {"step": torch.zeros_like(step)}, at_end | {"step": step}
    finite_start, finite_end = (finite_rows(at["image"], at["loss"], at["vector"]) for at in (at_start, at_end))
    improved = finite_end & (~finite_start | (at_end["loss"] < at_start["loss"]))
    best = where_rows(improved, at_end, at_start)
    best_layout = form.unflatten(best.pop("vector"))
    return Inversion(layout=best_layout, encoder_loss=at_start["loss"], failed=~(finite_start | finite_end), **best)


def invert(
    queries: Tensor, networks: NetworkPair, params: InversionParams, batch_size: int, start: BlobLayout | None = None
) -> Inversion:
    """Invert images.

    Minimises perceptual + l2 + decision + blobs, each a mean per image times its weight in `params`, over all six keys
    with Adam. The decision term costs as much as the others together; it enters for the last `decision_steps`. The
    quick networks optimise, the exact ones evaluate. The result of an image does not depend on the other images.

    Args:
        queries: (N,3,H,W) in [-1,1].
        batch_size: Number of images optimised at once.
        start: N layouts to start from and stay near; None: those of the encoder.

    Raises:
        BlobexError: `queries` has another shape, or no images.
    """
    if queries.ndim != 4 or not len(queries):
        raise BlobexError(f"inversion needs images of shape (N,3,H,W) with N at least 1, not {tuple(queries.shape)}")
    if start is None:
        rows = float32_batch_size(batch_size, queries.device)
        start = BlobLayout(**in_batches(lambda part: networks.exact.encode(part).as_dict(), rows, queries))
    form = VectorForm.of(start)
    rate = form.rates(params.learning_rate, params.size_lr_multiplier, RELATIVE_RATES).to(queries.device)
    optimisation = _Optimisation(queries, form.flatten(start), rate, form, networks.quick, params)
    work = optimisation.load, optimisation.advance
    state = solve_in_batches(len(queries), batch_size, *work, "inversion", params.steps)
    layout = form.unflatten(state["best"])
    return evaluate_layouts(queries, start, layout, state["step"], networks.exact, params, batch_size)


@dataclass(frozen=True)
class _Optimisation:
    """Iterations of the inversion, for `solve_in_batches`."""

    queries: Tensor
    start: Tensor  # N,D
    rate: Tensor  # D: first learning rates
    form: VectorForm
    networks: Networks
    params: InversionParams

    def load(self, numbers: Tensor) -> State:
        queries, start = (tensor[numbers.to(tensor.device)] for tensor in (self.queries, self.start))
        with torch.no_grad():
            embedded = self.networks.perceptual.embed(queries)
            state = {f"embedded_{layer}": features for layer, features in enumerate(embedded)}
            state |= {"queries": queries, "features": self.networks.features(queries), "start": start}
        zeros = torch.zeros_like(start[:, 0])
        best = {"best": start, "loss": zeros + torch.inf, "step": zeros.long(), "late": zeros > 0}
        return adam.init(start) | state | best

    def advance(self, state: State) -> tuple[State, Tensor]:
        params, vector, iteration = self.params, state["vector"], state["iteration"]
        late = (iteration >= params.steps - params.decision_steps) & (params.decision_steps > 0)
        image, loss, gradient = self._loss(state, late)
        finite = finite_rows(image, loss, vector)
        # The first loss with the decision term replaces those without it.
        better = finite & ((late & ~state["late"]) | (loss < state["loss"]))
        best = where_rows(better, {"best": vector, "loss": loss, "step": iteration}, state)
        state = state | best | {"late": late}
        cosine = 0.5 * (1 + torch.cos(math.pi * iteration / max(params.steps, 1)))
        rate = (LAST_RATE + (1 - LAST_RATE) * cosine)[:, None] * self.rate
        return state | adam.step(state, gradient, rate, BETAS), (iteration >= params.steps) | ~finite

    def _loss(self, state: State, late: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return image, loss and gradient; the loss has the decision term where `late`, bool (rows,), is true."""
        layers = sum(name.startswith("embedded_") for name in state)
        embedded, start = [state[f"embedded_{layer}"] for layer in range(layers)], self.form.unflatten(state["start"])
        with torch.enable_grad():
            leaf = state["vector"].detach().requires_grad_()
            layout = self.form.unflatten(leaf)
            image = self.networks.render(layout)
            terms = image_terms(layout, start, image, state["queries"], embedded, self.networks)
            loss = weighted_sum(terms, self.params)
            if late.any():
                terms["decision"] = mean_squared_error(self.networks.features(image), state["features"])
                loss = torch.where(late, weighted_sum(terms, self.params), loss)
            (gradient,) = torch.autograd.grad(loss.sum(), leaf)
        return image.detach(), loss.detach(), gradient
