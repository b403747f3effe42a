"""The inversion loss, and its evaluation with the exact networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from blobex.config.explain import InversionParams
from blobex.inversion.inversion import Inversion
from blobex.layout.blobs import BlobLayout, blob_distance
from blobex.layout.vector import VectorForm
from blobex.optim.batching import State, finite_rows, float32_batch_size, in_batches, where_rows
from blobex.optim.networks import Networks


def image_terms(
    layout: BlobLayout,
    start: BlobLayout,
    image: Tensor,
    query: Tensor,
    embedded: Sequence[Tensor],
    networks: Networks,
) -> dict[str, Tensor]:
    """Compute all terms (N,) of the loss but that of the decision.

    Args:
        image: Rendering (N,3,H,W) of `layout`.
        query: Images (N,3,H,W) to reproduce.
        embedded: Perceptual features of `query`.
    """
    return {
        "perceptual": networks.perceptual.distance_to(embedded, image),
        "l2": mean_squared_error(image, query),
        "blobs": blob_distance(layout, start),
    }


def weighted_sum(terms: Mapping[str, Tensor], params: InversionParams) -> Tensor:
    """Sum the terms (N,), each times its weight in `params`."""
    return torch.stack([getattr(params, name) * term for name, term in terms.items()]).sum(0)


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
) -> Inversion:
    """Evaluate layouts as inversions of `queries` (N,3,H,W).

    Where a layout is not finite, or has a higher loss than `start`, the inversion is `start`.

    Args:
        step: Iterations (N,) after which each layout was found.
    """
    form = VectorForm.of(start)

    def evaluate(start_vector: Tensor, vector: Tensor, query: Tensor) -> State:
        embedded, features = networks.perceptual.embed(query), networks.features(query)
        state: State = {}
        for name, each in (("start", start_vector), ("end", vector)):
            layout = form.unflatten(each)
            image = networks.render(layout)
            terms = image_terms(layout, form.unflatten(start_vector), image, query, embedded, networks)
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
