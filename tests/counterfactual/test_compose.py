"""Changes composed into the query: pixels that no changed blob paints keep their bits."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor
from worlds.tiny_world import (
    BLOBS,
    HEIGHT,
    WIDTH,
    painted_networks,
    render,
    scenes,
    scores,
    tiny_explainer,
    tiny_params,
)

from blobex.counterfactual.compose import FAINT, SOLID, Composer, coverage, lost_content
from blobex.counterfactual.masks import build_masks
from blobex.counterfactual.problems import Problems
from blobex.counterfactual.search import SearchOptions, search
from blobex.counterfactual.target import AttributeTarget
from blobex.datasets.images import to_array
from blobex.explain.request import Request
from blobex.layout.blobs import ABSENT, KEYS, BlobLayout
from blobex.layout.vector import VectorForm
from blobex.optim.batching import FLOAT32_BATCH_SIZE
from blobex.optim.network_callables import NetworkPair, Networks


def queries(count: int = 2) -> Tensor:
    """Return images of the painted world with noise that no blob reproduces."""
    random = torch.Generator().manual_seed(3)
    return (render(scenes(count)) + 0.3 * torch.randn(count, 3, HEIGHT, WIDTH, generator=random)).clamp(-1, 1)


def recoloured(layout: BlobLayout, blob: int) -> BlobLayout:
    features = layout.features.clone()
    features[:, blob + 1] += torch.tensor([0.4, -0.3, 0.2])
    return layout.replace({"features": features})


@pytest.mark.parametrize("blob", range(BLOBS))
def test_pixels_that_changed_blobs_do_not_paint_keep_their_bits(blob: int) -> None:
    start, images = scenes(2), queries()
    composer = Composer.over_queries(images, start, painted_networks(), 4)
    after, form = recoloured(start, blob), VectorForm.of(start)
    blobs = form.changed(form.flatten(after), form.flatten(start))
    assert blobs.tolist() == [[entry == blob + 1 for entry in range(BLOBS + 1)]] * 2
    made = composer.compose(form.flatten(after), torch.arange(2), blobs)
    painted = scores(start)[:, blob + 1]  # the blob's colour changes, not its position
    outside = (painted < FAINT)[:, None].expand_as(made)
    assert outside.any() and torch.equal(made[outside], images[outside])
    inside = (painted > SOLID)[:, None].expand_as(made)
    if inside.any():  # the query plus the change of the rendering, less the inversion error of lost content
        appearance = [torch.cat([each.features, each.spatial_style], 2)[:, blob + 1] for each in (start, after)]
        lost = ((appearance[1] - appearance[0]).norm(dim=1) / appearance[0].norm(dim=1)).clamp(max=1)[:, None, None]
        error = (painted * lost)[:, None] * (images - render(start))
        wanted = (images + render(after) - render(start) - error).clamp(-1, 1)
        torch.testing.assert_close(made[inside], wanted[inside], rtol=0, atol=1e-6)


def test_without_a_change_the_image_is_the_query() -> None:
    start, images, form = scenes(2), queries(), VectorForm.of(scenes(2))
    composer = Composer.over_queries(images, start, painted_networks(), 4)
    all_blobs = torch.ones(2, BLOBS + 1, dtype=torch.bool)
    assert torch.equal(composer.compose(form.flatten(start), torch.arange(2), all_blobs), images)
    nothing = composer.compose(form.flatten(recoloured(start, 0)), torch.arange(2), ~all_blobs)
    assert torch.equal(nothing, images)


def test_a_removed_object_leaves_no_ghost() -> None:
    """In the area that it covered fully, the image is the rendering behind it, whatever the query shows there."""
    start, form = scenes(2), VectorForm.of(scenes(2))
    sizes = start.sizes.clone()
    sizes[:, 1], sizes[:, 2:] = 20.0, ABSENT
    start = start.replace({"sizes": sizes})
    sizes = sizes.clone()
    sizes[:, 1] = -30.0
    after = start.replace({"sizes": sizes})
    blobs = form.changed(form.flatten(after), form.flatten(start))
    made = [
        Composer.over_queries(images, start, painted_networks(), 4).compose(form.flatten(after), torch.arange(2), blobs)
        for images in (queries(), -queries())
    ]
    hidden = (scores(start)[:, 1] > 1 - 1e-5)[:, None].expand_as(made[0])
    assert hidden.any()
    for image in made:
        torch.testing.assert_close(image[hidden], render(after)[hidden], rtol=0, atol=1e-4)


def test_lost_content_is_between_0_and_1() -> None:
    before, after = scores(scenes(3)), scores(scenes(6))[3:]
    appearance = torch.randn(2, 3, BLOBS + 1, 5, generator=torch.Generator().manual_seed(0))
    lost = lost_content(before, after, appearance[0], appearance[1])
    assert lost.min() >= 0 and lost.max() <= 1 + 1e-6
    assert torch.equal(lost_content(before, before, appearance[0], appearance[0]), torch.zeros_like(lost))
    torch.testing.assert_close(lost_content(before, after, appearance[0], -appearance[0]), torch.ones_like(lost))


def test_without_queries_the_image_is_the_rendering() -> None:
    layout, form = scenes(3), VectorForm.of(scenes(3))
    composer = Composer(painted_networks(), form, None)
    blobs = torch.zeros(3, BLOBS + 1, dtype=torch.bool)
    assert torch.equal(composer.compose(form.flatten(layout), torch.arange(3), blobs), render(layout))


def test_coverage_computed_by_hand() -> None:
    before = torch.tensor([0.7, 0.3, 0.0]).view(1, 3, 1, 1)
    after = torch.tensor([0.55, 0.05, 0.4]).view(1, 3, 1, 1)

    def of(*blobs: bool) -> float:
        return coverage(before, after, torch.tensor([blobs])).item()

    assert of(False, False, False) == 0
    assert of(False, True, False) == pytest.approx((0.3 - FAINT) / (SOLID - FAINT))
    assert of(False, False, True) == pytest.approx((0.4 - FAINT) / (SOLID - FAINT))
    assert of(True, False, False) == of(True, True, True) == 1


def test_an_image_does_not_depend_on_its_batch() -> None:
    start, images, form = scenes(5), queries(5), VectorForm.of(scenes(5))
    vector = form.flatten(recoloured(start, 4))
    blobs = form.changed(vector, form.flatten(start))
    whole = Composer.over_queries(images, start, painted_networks(), 8).compose(vector, torch.arange(5), blobs)
    for index in range(5):
        one = Composer.over_queries(images, start, painted_networks(), 1)
        assert torch.equal(one.compose(vector[[index]], torch.tensor([index]), blobs[[index]])[0], whole[index])


def test_exact_networks_have_small_batches() -> None:
    rows: dict[str, list[int]] = {"quick": [], "exact": []}

    def counting(name: str) -> Networks:
        def counted(layout: BlobLayout) -> Tensor:
            rows[name].append(len(layout))
            return render(layout)

        return dataclasses.replace(painted_networks(), render=counted)

    count, start = 20, scenes(20)
    index = torch.arange(count)
    stops = painted_networks().decide(queries(count))[:, 1] > 0
    target = AttributeTarget(torch.ones_like(index), ~stops)
    allowed, params = build_masks(BLOBS, KEYS, None, background=True), tiny_params(steps=2).explain.rect
    problems = Problems.of(queries(count), start, index, target, allowed, params.lambda_key)
    search(problems, NetworkPair(counting("quick"), counting("exact")), params, count, SearchOptions(over_query=True))
    assert max(rows["quick"]) == count and 0 < max(rows["exact"]) <= FLOAT32_BATCH_SIZE < count


def test_explanations_evaluate_the_composed_image() -> None:
    """The score is the model's score of the counterfactual image in the record."""
    images = [to_array(image) for image in queries(4)]
    tiny = tiny_explainer(tiny_params(steps=80))
    for record in tiny.explain(images, Request(["stop"], compose="photo", blobs=[4])):
        assert record.compose == "photo" and record.verdict == "flipped"
        moved = (record.counterfactual != record.query).any(2)
        assert 0 < moved.mean() < 0.2  # the light is small
        assert np.array_equal(record.counterfactual[~moved], record.query[~moved])
        image = torch.from_numpy(record.counterfactual).permute(2, 0, 1)[None] / 127.5 - 1
        assert tiny.decision.logits(image).sigmoid()[0, 1].item() == pytest.approx(record.score_after, abs=0.02)
    for record in tiny.explain(images, Request(["stop"], compose="full", blobs=[4])):
        assert record.compose == "full" and (record.counterfactual != record.query).any(2).mean() > 0.9
        assert record.score_full == record.score_after and record.flipped == record.flipped_full
