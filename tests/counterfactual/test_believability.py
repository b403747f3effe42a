"""Believable counterfactuals: usual appearances, and flips that small disturbances do not undo."""

import dataclasses

import pytest
import torch
from torch import Tensor
from worlds.linear_world import BLOBS, NETWORKS_X, PARAMS, layouts, networks, opposite, render_x
from worlds.tiny_world import HEIGHT, OUTPUTS, WIDTH, decide, painted_networks, render, scenes, tiny_params

from blobex.config.explain import SearchParams
from blobex.counterfactual.believability import BRIGHTNESS, NOISE, TOLERANCE, believable, disturb
from blobex.counterfactual.masks import build_masks
from blobex.counterfactual.problems import Problems
from blobex.counterfactual.search import SearchOptions, search
from blobex.counterfactual.target import AttributeTarget
from blobex.counterfactual.verify import Counterfactuals
from blobex.layout.blobs import ABSENT, KEYS, BlobLayout
from blobex.optim.network_callables import NetworkPair, Networks

CHECKED = dataclasses.replace(PARAMS, disturbances=8)
CHECKER = (torch.arange(16)[:, None] + torch.arange(32)) % 2 * 2.0 - 1  # 1 and -1 in turns


def smooth(count: int) -> Tensor:
    coarse = 0.8 * torch.rand(count, 3, 4, 8, generator=torch.Generator().manual_seed(1)) - 0.4
    return torch.nn.functional.interpolate(coarse, (16, 32), mode="bilinear", align_corners=False)


def test_disturbances_are_alike_for_all_images_and_batches() -> None:
    images = smooth(6)
    whole = disturb(images, 3)
    assert torch.equal(whole, disturb(images, 3))
    for row in range(6):
        assert torch.equal(disturb(images[[row]], 3)[0], whole[row])
    grey = torch.zeros(2, 3, 16, 32)
    assert torch.equal(disturb(grey, 3)[0], disturb(grey, 3)[1])
    assert len({float(disturb(grey, number).sum()) for number in range(8)}) == 8
    before = torch.random.get_rng_state()
    disturb(images, 3)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_disturbance_is_a_shift_a_brightness_and_noise() -> None:
    seen = set()
    for number in range(48):
        noise = disturb(torch.zeros(1, 3, 64, 64), number)
        assert abs(noise.mean()) <= BRIGHTNESS + 0.01
        assert noise.std().item() == pytest.approx(NOISE, rel=0.05)
        point = torch.zeros(1, 3, 64, 64)
        point[:, :, 10, 20] = 0.7
        place = int((disturb(point, number) - noise).abs().sum(1).argmax())
        seen.add((place // 64 - 10, place % 64 - 20))
        assert disturb(torch.ones(1, 3, 64, 64), number).max() <= 1
    assert seen == {(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)}


def problems_of(images: Tensor, decision: Networks) -> Problems:
    """Return problems that want the first attribute."""
    index, start = torch.arange(len(images)), layouts(len(images))
    target = AttributeTarget(torch.zeros_like(index), torch.ones_like(index, dtype=torch.bool))
    allowed = build_masks(BLOBS, KEYS, None, background=True)
    return Problems.of(images, start, index, target, allowed, PARAMS.lambda_key)


def check(images: Tensor, decision: Networks, limits: SearchParams | None, batch_size: int = 4) -> list[bool]:
    problems = problems_of(images, decision)
    return believable(problems.start, images, problems, decision, limits, batch_size).tolist()


def test_a_linear_decision_with_a_wide_margin_is_believable() -> None:
    """Brightness: noise averages out, and a shift does nothing; only a margin below the brightness can be undone."""
    bright = networks(decision=lambda images: images.mean((1, 2, 3))[:, None])
    images = torch.tensor([0.3, 1.5 * BRIGHTNESS, 0.1 * BRIGHTNESS, -0.3])[:, None, None, None].repeat(1, 3, 16, 32)
    assert check(images, bright, CHECKED) == [True, True, False, False]


def test_a_pattern_that_flips_is_not_believable() -> None:
    """The decision reads a pattern of single pixels: it flips by a faint one, which no shift survives."""
    fragile = networks(decision=lambda images: (images * CHECKER).mean((1, 2, 3))[:, None] - 0.02)
    images = smooth(3)
    flipped = images + 0.1 * CHECKER
    assert (fragile.decide(flipped) > 0).all() and (fragile.decide(images) < 0).all()
    assert check(flipped, fragile, CHECKED) == [False] * 3
    assert check(flipped, fragile, dataclasses.replace(CHECKED, disturbances=0)) == [True] * 3
    assert check(flipped, fragile, None) == [True] * 3


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_verdicts_do_not_depend_on_the_batch(batch_size: int) -> None:
    close = networks(decision=lambda images: images.mean((2, 3)) - 0.02)
    images = smooth(7)
    whole = check(images, close, CHECKED, 7)
    assert check(images, close, CHECKED, batch_size) == whole
    assert [check(images[[row]], close, CHECKED)[0] for row in range(7)] == whole
    assert 0 < sum(whole) < 7


def unusual(layout: BlobLayout) -> Tensor:
    """Return how far the first feature of each entry exceeds 1/2."""
    return (layout.features[..., 0] - 0.5).clamp(min=0)


def test_no_changed_blob_may_look_more_unusual() -> None:
    known = dataclasses.replace(NETWORKS_X, excess=unusual)
    start = layouts(5).replace({"features": torch.zeros(5, BLOBS + 1, 5)})
    start.features[3:, 1, 0] = 0.9  # unusual from the start
    images, index = render_x(start), torch.arange(5)
    target = AttributeTarget(torch.zeros_like(index), torch.ones(5, dtype=torch.bool))
    allowed = build_masks(BLOBS, KEYS, None, background=True)
    problems = Problems.of(images, start, index, target, allowed, PARAMS.lambda_key)
    features = start.features.clone()
    features[0, 1, 0] = 0.5 + TOLERANCE / 2
    features[1, 1, 0] = 0.5 + 2 * TOLERANCE
    features[2, 0, 0] = 0.6  # the background
    features[3, 1, 0] = 0.8  # less unusual than before
    features[4, 2, 1] = 0.8  # another blob, in a number that does not matter
    vectors = problems.form.flatten(start.replace({"features": features}))
    limits = dataclasses.replace(PARAMS, density=1.0)
    assert believable(vectors, images, problems, known, limits, 4).tolist() == [True, False, False, True, True]
    assert believable(vectors, images, problems, NETWORKS_X, limits, 4).all()  # nothing is known
    assert believable(vectors, images, problems, known, dataclasses.replace(limits, density=0.0), 4).all()


def test_a_new_object_looks_usual_and_a_removed_one_like_nothing() -> None:
    known = dataclasses.replace(NETWORKS_X, excess=unusual)
    start = layouts(4).replace(
        {"features": torch.full((4, BLOBS + 1, 5), 0.9), "sizes": torch.full((4, BLOBS + 1), 2.0)}
    )
    start.sizes[:2, 1] = ABSENT  # its appearance is unusual, but not seen
    index = torch.arange(4)
    target = AttributeTarget(torch.zeros_like(index), torch.ones(4, dtype=torch.bool))
    allowed = build_masks(BLOBS, KEYS, None, background=True)
    problems = Problems.of(render_x(start), start, index, target, allowed, PARAMS.lambda_key)
    end = start.map(Tensor.clone)
    end.sizes[:2, 1], end.sizes[2, 1] = 2.0, ABSENT
    end.features[1, 1], end.features[2, 1], end.features[3, 1] = 0.4, 1.5, 0.8
    vectors = problems.form.flatten(end)
    limits = dataclasses.replace(PARAMS, density=1.0)
    # new and unusual; new and usual; removed; as visible as before, and less unusual
    assert believable(vectors, render_x(start), problems, known, limits, 4).tolist() == [False, True, True, True]


def found(exact: Networks, start: BlobLayout, params: SearchParams) -> Counterfactuals:
    queries = exact.render(start)
    index, target = opposite(queries, (0,), exact.decide)
    allowed = build_masks(BLOBS, KEYS, None, background=True)
    problems = Problems.of(queries, start, index, target, allowed, params.lambda_key)
    return search(problems, NetworkPair(exact, exact), params, 4)


def test_without_a_believable_flip_the_answer_is_the_start() -> None:
    """A flip that moves the decision only just beyond its boundary is undone by a darker image."""
    start = layouts(3)
    narrow = dataclasses.replace(PARAMS, margin=0.01)
    result = found(NETWORKS_X, start, dataclasses.replace(narrow, disturbances=8))
    plain = found(NETWORKS_X, start, narrow)
    assert plain.flipped.all() and plain.believable.all() and plain.changed.any(1).all()
    assert not result.flipped.any() and not result.believable.any() and not result.failed.any()
    assert not result.changed.any() and not result.proximity.any()
    assert all(torch.equal(tensor, getattr(result.layout, key)) for key, tensor in start.items())
    torch.testing.assert_close(result.scores_after, result.scores_before)


def test_a_wide_margin_is_searched_and_believed() -> None:
    start = layouts(3)
    wide = dataclasses.replace(PARAMS, margin=2.0, bisections=0, disturbances=8, steps=120)
    result = found(NETWORKS_X, start, wide)
    assert result.flipped.all() and result.believable.all()
    assert (result.layout.xs[:, 0] - 0.5 > 1.5 * BRIGHTNESS).all()  # 2 logits are 0.2 of brightness


def test_the_density_holds_appearances_back() -> None:
    """The image is as bright as the background's first feature; above 1/2, where the decision flips, it is unusual."""
    painted = dataclasses.replace(
        networks(lambda layout: (layout.features[:, 0, 0] + layout.xs[:, 0])[:, None, None, None].repeat(1, 3, 2, 2)),
        excess=lambda layout: (layout.features[..., 0] - 0.2).clamp(min=0),
    )
    start = layouts(3).replace({"xs": torch.full((3, BLOBS), 0.05), "features": torch.full((3, BLOBS + 1, 5), 0.15)})
    free = found(painted, start, PARAMS)
    held = found(painted, start, dataclasses.replace(PARAMS, density=20.0, steps=200))
    assert free.flipped.all() and (painted.excess(free.layout) > 0.05).any(1).all()
    assert held.flipped.all() and held.believable.all()
    assert (painted.excess(held.layout) <= TOLERANCE).all() and (held.layout.xs[:, 0] > 0.25).all()


def test_unbelievable_rows_leave_the_others_alone() -> None:
    """In the painted world: the light turns green by a wide margin, and the rest as without the check."""
    wide = {"margin": 1.5, "bisections": 0, "learning_rate": 0.1}
    params = dataclasses.replace(tiny_params(steps=30).explain.rect, **wide)
    start, index = scenes(3), torch.arange(3)
    queries = render(start)
    target = AttributeTarget(torch.full_like(index, OUTPUTS.index("stop")), decide(queries)[:, 1] <= 0)
    problems = Problems.of(queries, start, index, target, build_masks(5, KEYS, [4], False), params.lambda_key)
    pair = NetworkPair(painted_networks(), painted_networks())
    plain = search(problems, pair, params, 4, SearchOptions(over_query=True))
    result = search(problems, pair, dataclasses.replace(params, disturbances=4), 4, SearchOptions(over_query=True))
    assert result.image.shape == (3, 3, HEIGHT, WIDTH) and plain.flipped.all() and result.flipped.any()
    kept = result.believable
    assert torch.equal(result.image[kept], plain.image[kept]) and torch.equal(result.image[~kept], queries[~kept])
    for row in kept.nonzero()[:, 0].tolist():
        for number in range(4):
            outputs = decide(disturb(result.image[[row]], number))
            assert target[torch.tensor([row])].margin(outputs) > 0


def test_what_the_parser_does_not_see_is_not_believable() -> None:
    """A parser that sees changes of more than 0.2; the second image changes by more, the third by less."""

    def sees(before: Tensor, after: Tensor) -> Tensor:
        return (after - before).abs().flatten(1).amax(1) > 0.2

    queries = smooth(3)
    images = queries + torch.tensor([0.0, 0.3, 0.1])[:, None, None, None]
    decision = networks(decision=lambda images: 0 * images.mean((2, 3)) + 1)
    problems = problems_of(queries, decision)
    for wanted, nameable, expected in (
        (True, sees, [False, True, False]),
        (False, sees, [True] * 3),
        (True, None, [True] * 3),
    ):
        limits, known = dataclasses.replace(PARAMS, nameable=wanted), dataclasses.replace(decision, nameable=nameable)
        assert believable(problems.start, images, problems, known, limits, 2).tolist() == expected
