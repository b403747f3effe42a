"""Vector form of layouts, against computations key by key."""

import math

import pytest
import torch
from torch import Tensor
from worlds.linear_world import BLOBS, LAMBDA_KEY, layouts
from worlds.tiny_networks import random_layout

from blobex.core.errors import BlobexError
from blobex.counterfactual.masks import build_masks
from blobex.counterfactual.problems import change, price_vector
from blobex.layout.blobs import KEYS, BlobLayout
from blobex.layout.vector import VectorForm


def test_unflatten_inverts_flatten() -> None:
    layout = random_layout(4, 3, 6)
    form = VectorForm.of(layout)
    vector = form.flatten(layout)
    assert vector.shape == (4, sum(form.lengths)) == (4, 3 + 3 + 12 + 4 + 24 + 24)
    for key, tensor in form.unflatten(vector).items():
        assert torch.equal(tensor, getattr(layout, key))
    assert torch.equal(form.flatten(form.unflatten(vector)), vector)
    assert VectorForm.of(layout[:1]) == form  # the batch size does not matter


def test_keys_are_in_order() -> None:
    layout = layouts(1)
    marked = BlobLayout(**{key: torch.full_like(tensor, KEYS.index(key)) for key, tensor in layout.items()})
    vector = VectorForm.of(layout).flatten(marked)[0]
    assert vector.tolist() == sorted(vector.tolist())
    assert vector.unique().tolist() == list(range(len(KEYS)))


def test_gradients_reach_the_vector() -> None:
    layout = random_layout(2, 3, 4)
    form = VectorForm.of(layout)
    vector = form.flatten(layout).requires_grad_()
    form.unflatten(vector).covs.sum().backward()
    assert torch.equal(vector.grad, form.spread({"covs": 1.0}).expand_as(vector).to(vector.dtype))


def test_spread_is_each_keys_number() -> None:
    form = VectorForm.of(layouts(1))
    spread = form.unflatten(form.spread({"ys": 2.0, "sizes": 3.0})[None])
    assert spread.ys.tolist() == [[2.0] * BLOBS]
    assert spread.sizes.tolist() == [[0.0] + [3.0] * BLOBS]  # that of the background is never read
    for key in set(KEYS) - {"ys", "sizes"}:
        assert not getattr(spread, key).any()


def test_weighted_sum_of_differences_is_the_sum_of_the_keys_means() -> None:
    start, end = layouts(5), layouts(5, seed=1)
    form = VectorForm.of(start)
    difference = (form.flatten(end) - form.flatten(start)).abs()
    by_key = change(end, start)
    expected = sum(LAMBDA_KEY[key] * by_key[key] for key in KEYS)
    torch.testing.assert_close((difference * price_vector(form, LAMBDA_KEY)).sum(1), expected)
    torch.testing.assert_close((difference * form.mean_weights({"ys": 3.0})).sum(1), 3.0 * by_key["ys"])


def test_change_worked_by_hand() -> None:
    start = layouts(2)
    moved = start.replace(
        {"xs": start.xs + torch.tensor([[0.3, 0, 0], [0.3, 0.3, 0]]), "features": start.features - 0.5}
    )
    torch.testing.assert_close(change(moved, start)["xs"], torch.tensor([0.1, 0.2]))
    form = VectorForm.of(start)
    difference = (form.flatten(moved) - form.flatten(start)).abs()
    torch.testing.assert_close((difference * price_vector(form, LAMBDA_KEY)).sum(1), torch.tensor([10.6, 11.2]))
    torch.testing.assert_close((difference * form.mean_weights({"xs": 1.0})).sum(1), torch.tensor([0.1, 0.2]))
    unread = start.replace({"sizes": start.sizes + torch.tensor([5.0, 0, 0, 0])})
    assert not change(unread, start)["sizes"].any()
    assert not ((form.flatten(unread) - form.flatten(start)).abs() * price_vector(form, LAMBDA_KEY)).any()


def test_price_needs_every_key() -> None:
    with pytest.raises(BlobexError, match="no weight for ys"):
        price_vector(VectorForm.of(layouts(1)), {"xs": 1.0})


@pytest.mark.parametrize("blobs", [None, [1], [[0, 2], [], [1]]])
@pytest.mark.parametrize("keys", [KEYS, ("xs",), ("sizes", "features"), ("spatial_style", "covs")])
def test_mask_is_that_of_each_key(blobs: list[int] | None, keys: tuple[str, ...]) -> None:
    layout = layouts(3)
    if blobs and isinstance(blobs[0], list) and not {"features", "spatial_style"} & set(keys):
        blobs = [[0, 2], [0], [1]]  # an empty list leaves nothing but the background
    allowed = build_masks(BLOBS, keys, blobs, background=True)
    form = VectorForm.of(layout)
    vector = form.mask(allowed)
    assert vector.dtype == torch.bool and vector.shape == (3 if blobs and len(blobs) == 3 else 1, sum(form.lengths))
    by_key = form.unflatten(vector.expand(3, -1))
    for key, tensor in by_key.items():
        expected = allowed[key].expand_as(tensor) if key in allowed else torch.zeros_like(tensor)
        assert torch.equal(tensor, expected), key
    assert not by_key.sizes[:, 0].any()


def test_layouts_of_unequal_widths() -> None:
    """Features and styles of different widths, and one blob only."""
    numbers = iter(range(100))

    def counted(*shape: int) -> Tensor:
        return torch.arange(math.prod(shape)).reshape(shape).float() + 100 * next(numbers)

    layout = BlobLayout(
        counted(2, 1), counted(2, 1), counted(2, 1, 4), counted(2, 2), counted(2, 2, 7), counted(2, 2, 3)
    )
    form = VectorForm.of(layout)
    assert form.lengths == [1, 1, 4, 2, 14, 6]
    assert torch.equal(form.unflatten(form.flatten(layout)).spatial_style, layout.spatial_style)
