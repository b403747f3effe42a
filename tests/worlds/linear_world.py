"""A renderer that adds numbers up and a decision about brightness: what a search must find is known by hand."""

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
from blobex.optim.networks import NetworkPair, Networks

BLOBS = 3
LAMBDA_KEY = {"xs": 6.0, "ys": 6.0, "covs": 1.0, "sizes": 1.0, "features": 20.0, "spatial_style": 20.0}
PARAMS = SearchParams(
    examples=0,
    steps=60,
    learning_rate=0.01,
    size_lr_multiplier=8.0,
    lambda_prox=0.0,
    margin=0.1,
    patience=5,
    retries=0,
    bisections=16,
    lambda_key=LAMBDA_KEY,
)


class MeanAbsolute:
    """A stand-in for the perceptual distance."""

    def embed(self, images: Tensor) -> list[Tensor]:
        return [images]

    def distance_to(self, embedded: Sequence[Tensor], images: Tensor) -> Tensor:
        return (embedded[0] - images).abs().flatten(1).mean(1)


def layouts(count: int, seed: int = 0, blobs: int = BLOBS, dim: int = 5) -> BlobLayout:
    """Layouts whose numbers lie in 0..0.4."""
    random = torch.Generator().manual_seed(seed)
    shapes = {"xs": (blobs,), "ys": (blobs,), "covs": (blobs, 4), "sizes": (blobs + 1,)}
    shapes |= {"features": (blobs + 1, dim), "spatial_style": (blobs + 1, dim)}
    return BlobLayout(**{key: torch.rand(count, *shape, generator=random) * 0.4 for key, shape in shapes.items()})


def render_x(layout: BlobLayout) -> Tensor:
    """Every pixel is the first blob's x."""
    return _flat(layout.xs[:, 0])


def render_all(layout: BlobLayout) -> Tensor:
    """Every pixel is the sum of everything, each number weighted by its place."""
    parts = [each.flatten(1) * torch.linspace(0.1, 0.3, each[0].numel()) for _, each in layout.items()]
    return _flat(torch.cat(parts, dim=1).sum(1))


def _flat(brightness: Tensor) -> Tensor:
    """Pictures of 2x2, each of one brightness; laid out so that a mean rounds alike wherever in a batch they stand."""
    return brightness[:, None, None, None].repeat(1, 3, 2, 2)


def decide(images: Tensor) -> Tensor:
    """Logits of two attributes: the mean brightness above 0.5, and below 0.45."""
    brightness = images.mean((1, 2, 3))
    return torch.stack([10 * (brightness - 0.5), 10 * (0.45 - brightness)], dim=1)


def networks(
    render: Callable[[BlobLayout], Tensor] = render_x, decision: Callable[[Tensor], Tensor] = decide
) -> Networks:
    def scores(layout: BlobLayout) -> Tensor:
        return splat(layout, 8, 8)  # of so few numbers as 2x2 the last are rounded otherwise

    return Networks(
        render,
        scores,
        lambda images: layouts(len(images)),
        decision,
        decision,
        MeanAbsolute(),
    )


def opposite(
    queries: Tensor, attributes: Sequence[int], decision: Callable[[Tensor], Tensor] = decide
) -> tuple[Tensor, AttributeTarget]:
    """For every picture and attribute, in this order: become what the decision does not say of the picture."""
    index = torch.arange(len(queries)).repeat_interleave(len(attributes))
    column = torch.tensor(attributes).repeat(len(queries))
    return index, AttributeTarget(column, decision(queries)[index, column] <= 0)


def run(
    start: BlobLayout,
    attributes: Sequence[int] = (0,),
    render: Callable[[BlobLayout], Tensor] = render_x,
    decision: Callable[[Tensor], Tensor] = decide,
    params: SearchParams = PARAMS,
    batch_size: int = 8,
    allowed: dict[str, Tensor] | None = None,
    queries: Tensor | None = None,
    quick: Networks | None = None,
) -> Counterfactuals:
    """The search for what `opposite` asks; `quick` networks, if given, beside exact ones of `render` and `decision`."""
    exact = networks(render, decision)
    queries = render(start) if queries is None else queries
    index, target = opposite(queries, attributes, decision)
    allowed = build_masks(BLOBS, KEYS, None, background=True) if allowed is None else allowed
    problems = Problems.of(queries, start, index, target, allowed, params.lambda_key)
    return search(problems, NetworkPair(quick or exact, exact), params, batch_size)
