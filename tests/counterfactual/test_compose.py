"""Changes composed into the query: pixels that no changed blob paints keep their bits."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy import ndimage
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

from blobex.counterfactual.compose import (
    FAINT,
    LARGEST_ERROR,
    NEAR,
    SOLID,
    WIDENED,
    Composer,
    continued,
    coverage,
    kept_appearance,
    lost_content,
    widened,
)
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


def doubled(line: np.ndarray, length: int) -> np.ndarray:
    """Interpolate values of blocks linearly to `length` values of half blocks, along the first axis."""
    places = (np.arange(length) + 0.5) * len(line) / length - 0.5
    return np.stack([np.interp(places, np.arange(len(line)), column) for column in line.T], axis=1)


def plain_continued(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Pull and push one channel (H,W) by recursion over blocks of 2x2 pixels."""
    height, width = values.shape
    own = np.where(known > 0, values, 0)
    if max(height, width) == 1:
        return own
    coarse, weight = (np.zeros((-(-height // 2), -(-width // 2))) for _ in range(2))
    for row, column in np.ndindex(coarse.shape):
        block = slice(2 * row, 2 * row + 2), slice(2 * column, 2 * column + 2)
        weight[row, column] = known[block].mean()
        coarse[row, column] = (own * known)[block].sum() / max(known[block].sum(), 1e-30)
    pushed = doubled(doubled(plain_continued(coarse, weight), height).T, width).T
    share = np.minimum(4 * known, 1)
    return share * own + (1 - share) * pushed


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
    if inside.any():  # the query plus the change of the rendering, the error of lost content becoming that around it
        appearance = [torch.cat([each.features, each.spatial_style], 2)[:, blob + 1] for each in (start, after)]
        lost = ((appearance[1] - appearance[0]).norm(dim=1) / appearance[0].norm(dim=1)).clamp(max=1)[:, None, None]
        kept_out = (1 - ((painted - FAINT) / (SOLID - FAINT)).clamp(0, 1)).numpy()
        outer = (images - render(after)).clamp(-LARGEST_ERROR, LARGEST_ERROR).numpy()
        plain = [[plain_continued(each, known) for each in image] for image, known in zip(outer, kept_out, strict=True)]
        continued_error = torch.tensor(np.array(plain), dtype=torch.float32)
        error = (painted * lost)[:, None] * (images - render(start) - continued_error)
        wanted = (images + render(after) - render(start) - error).clamp(-1, 1)
        torch.testing.assert_close(made[inside], wanted[inside], rtol=0, atol=1e-6)


def test_without_a_change_the_image_is_the_query() -> None:
    start, images, form = scenes(2), queries(), VectorForm.of(scenes(2))
    composer = Composer.over_queries(images, start, painted_networks(), 4)
    all_blobs = torch.ones(2, BLOBS + 1, dtype=torch.bool)
    assert torch.equal(composer.compose(form.flatten(start), torch.arange(2), all_blobs), images)
    nothing = composer.compose(form.flatten(recoloured(start, 0)), torch.arange(2), ~all_blobs)
    assert torch.equal(nothing, images)


def covered_by_one() -> tuple[BlobLayout, BlobLayout, Tensor]:
    """Return layouts with one large blob and without it, and the blobs that differ."""
    start, form = scenes(2), VectorForm.of(scenes(2))
    sizes = start.sizes.clone()
    sizes[:, 1], sizes[:, 2:] = 20.0, ABSENT
    start = start.replace({"sizes": sizes})
    sizes = sizes.clone()
    sizes[:, 1] = -30.0
    after = start.replace({"sizes": sizes})
    return start, after, form.changed(form.flatten(after), form.flatten(start))


def test_a_removed_object_leaves_no_ghost() -> None:
    """What the query shows where the object was has no influence, and the rendering behind it appears there."""
    start, after, blobs = covered_by_one()
    painted = scores(start)[:, 1:2]
    solid, hidden = painted > SOLID, (painted > 1 - 1e-5).expand(-1, 3, -1, -1)
    assert hidden.any() and not solid.all()
    vector = VectorForm.of(start).flatten(after)
    made = [
        Composer.over_queries(images, start, painted_networks(), 4).compose(vector, torch.arange(2), blobs)
        for images in (queries(), torch.where(solid, -queries().flip(2), queries()))
    ]
    torch.testing.assert_close(made[0][hidden], made[1][hidden], rtol=0, atol=1e-4)
    assert (made[0] - render(after))[hidden].abs().max() <= LARGEST_ERROR + 1e-4


@pytest.mark.parametrize(("error", "continues"), [(0.0, 0.0), (0.1, 0.1), (-0.15, -0.15), (0.5, LARGEST_ERROR)])
def test_the_error_of_the_surroundings_continues(error: float, continues: float) -> None:
    """A constant error around the object is found behind it, too, up to a limit: there is no seam."""
    start, after, blobs = covered_by_one()
    grey = {"features": 0.3 * start.features}  # far from -1 and 1
    start, after = start.replace(grey), after.replace(grey)
    composer = Composer.over_queries(render(after) + error, start, painted_networks(), 4)
    made = composer.compose(VectorForm.of(start).flatten(after), torch.arange(2), blobs)
    hidden = (scores(start)[:, 1:2] > 1 - 1e-5).expand_as(made)
    torch.testing.assert_close(made[hidden], (render(after) + continues)[hidden], rtol=0, atol=1e-4)


def random_known(seed: int, height: int = 13, width: int = 21) -> tuple[Tensor, Tensor]:
    """Return values (2,3,H,W) and how well they are known: in full, not at all, or partly."""
    random = torch.Generator().manual_seed(seed)
    values = torch.randn(2, 3, height, width, generator=random)
    return values, (2 * torch.rand(2, 1, height, width, generator=random) - 0.8).clamp(0, 1)


@pytest.mark.parametrize("seed", range(3))
def test_continued_values_against_a_plain_recursion(seed: int) -> None:
    values, known = random_known(seed)
    made = continued(values, known)
    for image in range(2):
        for channel in range(3):
            plain = plain_continued(values[image, channel].numpy(), known[image, 0].numpy())
            np.testing.assert_allclose(made[image, channel].numpy(), plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (16, 32)])
def test_a_constant_continues_as_that_constant(size: tuple[int, int]) -> None:
    known = (torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(0)) - 0.7).clamp(min=0)
    known[:, :, 0, 0] = 0.5
    made = continued(torch.full((1, 3, *size), -0.37), known)
    torch.testing.assert_close(made, torch.full((1, 3, *size), -0.37))


def test_known_values_stay_and_others_lie_between_them() -> None:
    values, known = random_known(5)
    known = (known > 0.9).float()
    hole = torch.where(known > 0, values, 1e3)  # unknown values have no influence
    made = continued(hole, known)
    seen = (known > 0).expand_as(values)
    torch.testing.assert_close(made[seen], values[seen])
    for image in range(2):
        inside = values[image][:, known[image, 0] > 0]
        low, high = inside.amin(1)[:, None, None], inside.amax(1)[:, None, None]
        assert (made[image] >= low - 1e-5).all() and (made[image] <= high + 1e-5).all()
    assert torch.equal(continued(values, torch.zeros_like(known)), torch.zeros_like(values))


def test_a_hole_between_two_levels_is_filled_smoothly() -> None:
    values = torch.zeros(1, 1, 16, 32)
    values[..., 24:] = 1.0
    known = torch.ones(1, 1, 16, 32)
    known[..., 8:24] = 0.0
    row = continued(values, known)[0, 0, 8]
    assert (row.diff() >= -1e-6).all() and row.diff().max() < 0.3 and row[15] + row[16] == pytest.approx(1, abs=1e-5)


def test_lost_content_is_between_0_and_1() -> None:
    before, after = scores(scenes(3)), scores(scenes(6))[3:]
    appearance = torch.randn(2, 3, BLOBS + 1, 5, generator=torch.Generator().manual_seed(0))
    lost = lost_content(before, after, kept_appearance(appearance[0], appearance[1]))
    assert lost.min() >= 0 and lost.max() <= 1 + 1e-6
    kept = kept_appearance(appearance[0], appearance[0])
    assert torch.equal(lost_content(before, before, kept), torch.zeros_like(lost))
    kept = kept_appearance(appearance[0], -appearance[0])
    torch.testing.assert_close(lost_content(before, after, kept), torch.ones_like(lost))


def with_segments(segments: Tensor) -> Networks:
    return dataclasses.replace(painted_networks(), segments=lambda images: segments[: len(images)])


def test_a_removed_segment_disappears_where_its_blob_hardly_paints() -> None:
    """The head of a rider is part of the segment, but no part of the ellipse."""
    start, form = scenes(2), VectorForm.of(scenes(2))
    sizes = start.sizes.clone()
    sizes[:, 2] = ABSENT  # a car
    after = start.replace({"sizes": sizes})
    blobs = form.changed(form.flatten(after), form.flatten(start))
    unpainted = scores(start)[:, 2:3] < FAINT / 100
    head = torch.zeros_like(unpainted)
    head[:, :, 2:8, 50:58] = True
    assert (unpainted | ~head).all()
    images = torch.where(head, 1.0, queries())
    segments = torch.zeros(2, BLOBS + 1, HEIGHT, WIDTH, dtype=torch.bool)
    segments[:, 2] = head[:, 0] | (scores(start)[:, 2] > SOLID)
    vector, head = form.flatten(after), head.expand_as(images)
    composers = [
        Composer.over_queries(images, start, each, 4) for each in (painted_networks(), with_segments(segments))
    ]
    vague, made = (composer.compose(vector, torch.arange(2), blobs) for composer in composers)
    assert torch.equal(vague[head], images[head])
    assert ((made - render(after)).abs() <= LARGEST_ERROR + 1e-6)[head].all()
    far = widened(widened(segments[:, 2:3].float() + scores(start)[:, 2:3])) < FAINT / 2
    assert far.any() and torch.equal(made[far.expand_as(made)], images[far.expand_as(made)])


def test_a_query_stays_where_no_change_is_visible() -> None:
    """A blob with another style that renders the same colour replaces nothing: a cloud behind a pole stays."""
    start, images, form = scenes(2), queries(), VectorForm.of(scenes(2))
    styles = start.spatial_style.clone()
    styles[:, 3] += 9.0
    vector = form.flatten(start.replace({"spatial_style": styles}))
    blobs = form.changed(vector, form.flatten(start))
    nothing = torch.zeros(2, BLOBS + 1, HEIGHT, WIDTH, dtype=torch.bool)
    composers = [Composer.over_queries(images, start, each, 4) for each in (painted_networks(), with_segments(nothing))]
    vague, exact = (composer.compose(vector, torch.arange(2), blobs) for composer in composers)
    assert torch.equal(exact, images) and not torch.equal(vague, images)


def test_a_removed_object_changes_only_what_is_near_its_segment() -> None:
    """The ellipse of a bent pole covers the sky inside the bend."""
    start, after, blobs = covered_by_one()
    segments = torch.zeros(2, BLOBS + 1, HEIGHT, WIDTH, dtype=torch.bool)
    segments[:, 1, :, :2] = True
    images = queries()
    composer = Composer.over_queries(images, start, with_segments(segments), 4)
    made = composer.compose(VectorForm.of(start).flatten(after), torch.arange(2), blobs)
    assert (scores(start)[:, 1] > SOLID)[:, :, 10:30].any()
    reach = 2 + round(HEIGHT / NEAR) + round(HEIGHT / WIDENED)
    assert torch.equal(made[..., reach:], images[..., reach:]) and not torch.equal(made, images)


def test_equal_networks_render_the_queries_once() -> None:
    rows = list[int]()

    def counted(images: Tensor) -> Tensor:
        rows.append(len(images))
        return torch.zeros(len(images), BLOBS + 1, HEIGHT, WIDTH, dtype=torch.bool)

    networks, index = dataclasses.replace(painted_networks(), segments=counted), torch.arange(4)
    target = AttributeTarget(torch.ones_like(index), networks.decide(queries(4))[:, 1] <= 0)
    allowed, params = build_masks(BLOBS, KEYS, None, background=True), tiny_params(steps=2).explain.rect
    problems = Problems.of(queries(4), scenes(4), index, target, allowed, params.lambda_key)
    search(problems, NetworkPair(networks, networks), params, 4, SearchOptions(over_query=True))
    assert rows == [4]


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


@pytest.mark.parametrize(("height", "reach"), [(16, 0), (64, 1), (128, 2)])
def test_changed_regions_are_widened_as_by_a_dilation(height: int, reach: int) -> None:
    values = torch.rand(2, 1, height, 2 * height, generator=torch.Generator().manual_seed(height))
    side = 2 * reach + 1
    expected = [ndimage.grey_dilation(image[0].numpy(), size=(side, side), mode="nearest") for image in values]
    assert np.array_equal(widened(values)[:, 0].numpy(), np.stack(expected))
