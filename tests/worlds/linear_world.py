"""A linear renderer and a decision about brightness, for which the smallest change is known."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from blobex.config.explain import SearchParams
from blobex.counterfactual.masks import build_masks
from blobex.counterfactual.problems import Problems
from blobex.counterfactual.search import search
from blobex.counterfactual.target import AttributeTarget
from blobex.counterfactual.verify import Counterfactuals
from blobex.layout.blobs import KEYS, BlobLayout
from blobex.layout.splat import splat
from blobex.optim.network_callables import NetworkPair, Networks

BLOBS = 3
LAMBDA_KEY = {"xs": 6.0, "ys": 6.0, "covs": 1.0, "sizes": 1.0, "features": 20.0, "spatial_style": 20.0}
PARAMS = SearchParams(
    examples=0,
    steps=60,
    learning_rate=0.01,
    size_lr_multiplier=8.0,
    lambda_prox=0.0,
    density=0.0,
    disturbances=0,
    nameable=False,
    margin=0.1,
    patience=5,
    retries=0,
    bisections=16,
    lambda_key=LAMBDA_KEY,
)


class MeanAbsolute:
    """Mean absolute difference as a perceptual distance."""

    def embed(self, images: Tensor) -> list[Tensor]:
        return [images]

    def distance_to(self, embedded: Sequence[Tensor], images: Tensor) -> Tensor:
        return (embedded[0] - images).abs().flatten(1).mean(1)


def layouts(count: int, seed: int = 0, blobs: int = BLOBS, dim: int = 5) -> BlobLayout:
    """Return random layouts with numbers in [0, 0.4]."""
    random = torch.Generator().manual_seed(seed)
    shapes = {"xs": (blobs,), "ys": (blobs,), "covs": (blobs, 4), "sizes": (blobs + 1,)}
    shapes |= {"features": (blobs + 1, dim), "spatial_style": (blobs + 1, dim)}
    return BlobLayout(**{key: torch.rand(count, *shape, generator=random) * 0.4 for key, shape in shapes.items()})


def render_x(layout: BlobLayout) -> Tensor:
    """Render images of 2x2 whose brightness is the x of the first blob."""
    return _flat(layout.xs[:, 0])


def render_all(layout: BlobLayout) -> Tensor:
    """Render images whose brightness is a weighted sum of all numbers."""
    parts = [each.flatten(1) * torch.linspace(0.1, 0.3, each[0].numel()) for _, each in layout.items()]
    return _flat(torch.cat(parts, dim=1).sum(1))


def _flat(brightness: Tensor) -> Tensor:
    """Return uniform images of 2x2, contiguous so that a mean rounds alike for every row of a batch."""
    return brightness[:, None, None, None].repeat(1, 3, 2, 2)


def decide(images: Tensor) -> Tensor:
    """Return logits of two attributes: brightness above 0.5, and below 0.45."""
    brightness = images.mean((1, 2, 3))
    return torch.stack([10 * (brightness - 0.5), 10 * (0.45 - brightness)], dim=1)


def networks(
    render: Callable[[BlobLayout], Tensor] = render_x, decision: Callable[[Tensor], Tensor] = decide
) -> Networks:
    def scores(layout: BlobLayout) -> Tensor:
        return splat(layout, 8, 8)  # with 2x2 the last numbers would round differently

    return Networks(
        render,
        scores,
        lambda images: layouts(len(images)),
        decision,
        decision,
        MeanAbsolute(),
    )


NETWORKS_X, NETWORKS_ALL = networks(), networks(render_all)


def opposite(
    queries: Tensor, attributes: Sequence[int], decision: Callable[[Tensor], Tensor] = decide
) -> tuple[Tensor, AttributeTarget]:
    """Return image index and target for every image and attribute: invert the decision."""
    index = torch.arange(len(queries)).repeat_interleave(len(attributes))
    column = torch.tensor(attributes).repeat(len(queries))
    return index, AttributeTarget(column, decision(queries)[index, column] <= 0)


def adam_over(leaves: dict[str, Tensor], rate: float, size_rate: float) -> torch.optim.Adam:
    """Return torch's Adam over one tensor per key; `sizes` has its own learning rate."""
    return torch.optim.Adam([{"params": [leaves[key]], "lr": size_rate if key == "sizes" else rate} for key in KEYS])


def shifted(boundary: float) -> Callable[[Tensor], Tensor]:
    """Return `decide` with the boundary of the first attribute elsewhere."""
    return lambda images: decide(images + (0.5 - boundary))


def run(
    start: BlobLayout,
    attributes: Sequence[int] = (0,),
    exact: Networks = NETWORKS_X,
    params: SearchParams = PARAMS,
    batch_size: int = 8,
    allowed: dict[str, Tensor] | None = None,
    queries: Tensor | None = None,
    quick: Networks | None = None,
) -> Counterfactuals:
    """Search the counterfactuals of `opposite`; `quick` networks default to the exact ones."""
    queries = exact.render(start) if queries is None else queries
    index, target = opposite(queries, attributes, exact.decide)
    allowed = build_masks(BLOBS, KEYS, None, background=True) if allowed is None else allowed
    problems = Problems.of(queries, start, index, target, allowed, params.lambda_key)
    return search(problems, NetworkPair(quick or exact, exact), params, batch_size)
