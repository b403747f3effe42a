"""The published search against a plain loop over single problems."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from worlds.linear_world import BLOBS, LAMBDA_KEY, adam_over, decide, layouts, networks, opposite, render_all

from blobex.counterfactual import published
from blobex.counterfactual.masks import build_masks
from blobex.counterfactual.problems import Problems
from blobex.counterfactual.published import search_published
from blobex.counterfactual.target import ClassTarget
from blobex.layout.blobs import KEYS, BlobLayout

ALL = build_masks(BLOBS, KEYS, None, background=True)


def with_unread_size(sizes: Tensor, start: Tensor) -> Tensor:
    """Return the sizes with entry 0 of the start: this renderer reads it, a generator does not."""
    return torch.cat([start[:, :1], sizes[:, 1:]], dim=1)


def plain_search(start: BlobLayout, column: int, wanted: bool, keys: tuple[str, ...]) -> BlobLayout:
    """Solve one problem by 200 steps of the published loss; keys that are not listed do not change."""
    free = {key: tensor.clone().requires_grad_() for key, tensor in start.items()}
    adam = adam_over(free, 0.01, 0.08)
    for _ in range(200):
        layout = BlobLayout(**{key: free[key] if key in keys else getattr(start, key) for key in KEYS})
        layout = layout.replace({"sizes": with_unread_size(layout.sizes, start.sizes)})
        logit = decide(render_all(layout))[0, column]
        moved = {key: (getattr(layout, key) - getattr(start, key)).abs() for key in KEYS}
        moved["sizes"] = moved["sizes"][:, 1:]
        price = sum(LAMBDA_KEY[key] * moved[key].mean() for key in KEYS)
        loss = F.binary_cross_entropy_with_logits(logit, torch.tensor(float(wanted), dtype=torch.float64)) + 0.1 * price
        adam.zero_grad()
        loss.backward()
        adam.step()
    found = BlobLayout(**{key: (free[key] if key in keys else getattr(start, key)).detach() for key in KEYS})
    return found.replace({"sizes": with_unread_size(found.sizes, start.sizes)})


@pytest.mark.parametrize("keys", [KEYS, ("xs", "sizes", "spatial_style")])
def test_search_is_the_published_loop(keys: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "draw_blobs", lambda *_: None)  # draws in float32
    # Of these sizes all prices are exact, so that float32 rounding does not move the kink of the price.
    start = layouts(3, blobs=4, dim=4).map(Tensor.double)
    queries = render_all(start)
    index, target = opposite(queries, (0, 1))
    allowed = build_masks(4, keys, None, background=True)
    problems = Problems.of(queries, start, index, target, allowed, LAMBDA_KEY)
    result = search_published(problems, networks(render_all))
    for problem in range(6):
        one = start[[int(index[problem])]]
        expected = plain_search(one, int(target.column[problem]), bool(target.wanted[problem]), keys)
        for key, tensor in expected.items():
            torch.testing.assert_close(getattr(result.layout, key)[[problem]], tensor, rtol=0, atol=1e-5)
    assert result.step.tolist() == [200] * 6
    torch.testing.assert_close(result.scores_after, decide(render_all(result.layout)).sigmoid())
    assert torch.equal(result.image, render_all(result.layout))


def test_search_respects_the_masks() -> None:
    start = layouts(2)
    allowed = build_masks(BLOBS, KEYS, [[1], [0, 2]], background=False)
    index, target = opposite(render_all(start), (0,))
    problems = Problems.of(render_all(start), start, index, target, allowed, LAMBDA_KEY)
    result = search_published(problems, networks(render_all))
    moved = result.layout.xs != start.xs
    assert moved.tolist() == [[False, True, False], [True, False, True]]
    assert torch.equal(result.layout.features[:, 0], start.features[:, 0])


def test_search_supports_classes() -> None:
    start = layouts(2)
    target = ClassTarget(torch.tensor([1, 1]))
    problems = Problems.of(render_all(start), start, torch.arange(2), target, ALL, LAMBDA_KEY)
    result = search_published(problems, networks(render_all))
    assert torch.equal(result.flipped, decide(result.image).argmax(1) == 1) and result.flipped.all()
