"""Whole-object changes of images as interventions: all that the search tries, whatever a model decides about them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from blobex.config.explain import SearchParams
from blobex.counterfactual.compose import Composer
from blobex.counterfactual.masks import build_masks
from blobex.counterfactual.object_examples import ObjectExamples
from blobex.counterfactual.problems import Problems, SearchContext
from blobex.counterfactual.target import AttributeTarget
from blobex.counterfactual.whole_objects import EXTENTS, LIGHT, ObjectSearch
from blobex.layout.blobs import KEYS, BlobLayout
from blobex.optim.batching import float32_batch_size
from blobex.optim.network_callables import Networks

EXAMPLES = 2  # of each object; the search tries more


@dataclass(frozen=True)
class ObjectEdits:
    """Changed images of one query."""

    images: Tensor  # C,3,H,W: the query first
    amount: Tensor  # C: mean change of pixels
    relit: Tensor  # C bool: the light of the whole scene is another


@torch.no_grad()
def object_edits(
    queries: Tensor,
    layout: BlobLayout,
    networks: Networks,
    examples: ObjectExamples,
    params: SearchParams,
    batch_size: int,
) -> Iterator[ObjectEdits]:
    """Yield the edits of each of N queries (N,3,H,W) in [-1,1] with inverted layouts, composed into the query."""
    masks = build_masks(layout.blobs, KEYS, None, background=True)
    index = torch.arange(len(queries), device=queries.device)
    any_target = AttributeTarget(torch.zeros_like(index), index >= 0)  # edits are the same for every target
    problems = Problems.of(queries, layout, index, any_target, masks, params.lambda_key)
    composer = Composer.over_queries(queries, layout, networks, batch_size)
    few = dataclasses.replace(params, examples=min(params.examples, EXAMPLES))
    rows = float32_batch_size(batch_size, queries.device)
    search = ObjectSearch(problems, SearchContext(composer, few, rows), examples)
    for row in index:
        parts = [search.candidates(problems.start[row], problems.mask[row], row, extent) for extent in EXTENTS]
        images = torch.cat([queries[row][None], *(part.images[1:] for part in parts)])
        extents = zip(EXTENTS, (len(part.images) - 1 for part in parts), strict=True)
        relit = torch.tensor([False, *(extent == LIGHT for extent, count in extents for _ in range(count))])
        change = (images - images[0]).abs().flatten(1).mean(1)
        yield ObjectEdits(images, change, relit.to(images.device))
