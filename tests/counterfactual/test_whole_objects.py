"""Whole-object changes, in a world of columns: each blob that is there lights a column, and bright columns decide."""

import dataclasses

import pytest
import torch
from torch import Tensor
from worlds.linear_world import PARAMS, MeanAbsolute

from blobex.counterfactual.compose import Composer
from blobex.counterfactual.masks import build_masks
from blobex.counterfactual.object_examples import ObjectExamples, objects_of, surfaces_of
from blobex.counterfactual.problems import Problems, SearchContext
from blobex.counterfactual.search import search
from blobex.counterfactual.target import AttributeTarget
from blobex.counterfactual.whole_objects import AS_CONFIDENT, CONFIDENT, LEAST_MARGIN, ObjectSearch
from blobex.layout.blobs import ABSENT, KEYS, BlobLayout
from blobex.layout.splat import splat
from blobex.optim.networks import NetworkPair, Networks

BLOBS = 5
SLOTS = {"road": 1, "lane": 1, "vehicle": 3}  # the first two blobs are one object
CAUSES = [3, 4]  # entries of features: blobs 2 and 3 refuse where they are bright


def render(layout: BlobLayout) -> Tensor:
    """(N,3,2,K+1): column k is as bright as the first feature of entry k, if it is there."""
    there = torch.cat([torch.ones_like(layout.xs[:, :1]), (layout.sizes[:, 1:] > 0).float()], 1)
    return (there * layout.features[..., 0])[:, None, None].repeat(1, 3, 2, 1)


def decide(images: Tensor) -> Tensor:
    """A logit (N,1): whether any of the columns in CAUSES is bright."""
    return 10 * (images[:, :, :, CAUSES].amax((1, 2, 3)) - 0.5)[:, None]


NETWORKS = Networks(
    render, lambda layout: splat(layout, 8, 8), lambda images: layouts(images[:, 0, 0]), decide, decide, MeanAbsolute()
)


def layouts(bright: Tensor, present: Tensor | None = None) -> BlobLayout:
    """Layouts of pictures whose entries are as bright as `bright` (N,K+1)."""
    count = len(bright)
    sizes = torch.full((count, BLOBS + 1), 2.0)
    if present is not None:
        sizes[:, 1:] = torch.where(present, sizes[:, 1:], ABSENT)
    places = torch.full((2, count, BLOBS), 0.5)
    looks = torch.stack([bright, bright.square()], 2)
    return BlobLayout(places[0], places[1], torch.ones(count, BLOBS, 4), sizes, looks, looks.clone())


def examples(seed: int, count: int = 6, share: float = 0.7) -> ObjectExamples:
    """Random ones, of whose blobs a share is there."""
    random = torch.Generator().manual_seed(seed)
    present = torch.rand(count, BLOBS, generator=random) < share
    layout = layouts(torch.rand(count, BLOBS + 1, generator=random), present)
    present = torch.cat([torch.ones(count, 1, dtype=torch.bool), present], 1)
    return ObjectExamples(layout, present, objects_of(SLOTS), surfaces_of(SLOTS))


def problems(start: BlobLayout, allowed: dict[str, Tensor] | None = None) -> Problems:
    """One for each picture: become what it is not."""
    index = torch.arange(len(start))
    target = AttributeTarget(torch.zeros_like(index), decide(render(start))[:, 0] <= 0)
    allowed = build_masks(BLOBS, KEYS, None, background=True) if allowed is None else allowed
    built = Problems.of(render(start), start, index, target, allowed, PARAMS.lambda_key)
    return dataclasses.replace(built, price=torch.ones_like(built.price))


def object_search(some: Problems, known: ObjectExamples, networks: Networks = NETWORKS) -> ObjectSearch:
    params = dataclasses.replace(PARAMS, examples=100)
    return ObjectSearch(some, SearchContext(Composer(networks, some.form), params, 8), known)


def solve(some: Problems, known: ObjectExamples, count: int = 1) -> tuple[Tensor, Tensor]:
    return object_search(some, known).solve(count)


def measured(change: BlobLayout, start: BlobLayout, before: float) -> tuple[float, float]:
    """How far past the border a change leads, and how much of the picture it changes."""
    margin = float(decide(render(change))[0, 0]) * (-1 if before > 0 else 1)
    return margin, float((render(change) - render(start)).abs().mean())


def plain_single(start: BlobLayout, known: ObjectExamples) -> float | None:
    """The least change of pixels of a sure flip by one object, by loops over everything."""
    before = float(decide(render(start))[0, 0])
    found = []
    for own in objects_of(SLOTS):
        entries = own.nonzero()[:, 0].tolist()
        changes = [start.replace({"sizes": start.sizes.index_fill(1, own.nonzero()[:, 0], ABSENT)})]
        changes = changes if len(entries) == 1 and entries[0] > 0 and float(start.sizes[0, entries[0]]) > 0 else []
        for number in range(len(known.layout)):
            if not known.present[number, own].any():
                continue
            other = known.layout[[number]]
            looks = {key: torch.where(own[None, :, None], getattr(other, key), getattr(start, key)) for key in KEYS[4:]}
            sizes = torch.where(own, other.sizes, start.sizes)
            if len(entries) == 1 and entries[0] > 0 and float(start.sizes[0, entries[0]]) > 0:
                changes.append(start.replace(looks))
            if entries[0] > 0:
                changes.append(start.replace(looks | {"sizes": sizes}))
        found += [measured(change, start, before) for change in changes]
    for number in range(len(known.layout)):
        for entries in ([0], [1], [2], [0, 1, 2]):  # the background, the road, the lane, all of them
            sky = known.layout.features[:, 0, 0]
            alike = sorted(range(len(sky)), key=lambda other: float((sky[other] - sky[number]).abs()))
            looks = {key: getattr(start, key).clone() for key in KEYS[4:]}
            for entry in entries:  # with the sky, a blob looks as in the example of most like a sky that has it
                having = [other for other in (alike if entries[0] == 0 else [number]) if known.present[other, entry]]
                for key in looks if having else ():
                    looks[key][0, entry] = getattr(known.layout, key)[having[0], entry]
            found.append(measured(start.replace(looks), start, before))
    surest = max(margin for margin, amount in found if amount > 0)
    least = max(CONFIDENT * surest, AS_CONFIDENT * abs(before), LEAST_MARGIN)
    sure = [amount for margin, amount in found if margin >= least and amount > 0]
    return min(sure) if sure else None


@pytest.mark.parametrize("seed", range(12))
def test_one_object_as_loops_over_everything_find_it(seed):
    random = torch.Generator().manual_seed(100 + seed)
    bright = torch.rand(1, BLOBS + 1, generator=random)
    bright[0, CAUSES[1]] = 0.1  # one cause at most, so that one object can do
    start = layouts(bright, torch.rand(1, BLOBS, generator=random) < 0.8)
    known, some = examples(seed), problems(start)
    vectors, solved = solve(some, known)
    expected = plain_single(start, known)
    assert bool(solved[0]) == (expected is not None)
    if expected is not None:
        after = some.form.unflatten(vectors)
        assert float((render(after) - render(start)).abs().mean()) == pytest.approx(expected, abs=1e-7)


def both_bright() -> tuple[BlobLayout, Problems]:
    start = layouts(torch.tensor([[0.2, 0.3, 0.4, 0.9, 0.9, 0.6]]))
    return start, problems(start)


def test_two_causes_go_together_and_nothing_else_does():
    _, some = both_bright()
    vectors, solved = solve(some, examples(0))
    assert solved.all()
    assert some.form.changed(vectors, some.start)[0].nonzero()[:, 0].tolist() == CAUSES
    after = some.form.unflatten(vectors)
    assert (after.sizes[0, CAUSES] == ABSENT).all() and float(decide(render(after))[0, 0]) < 0


def test_where_only_what_does_not_matter_may_change_nothing_is_found():
    start, _ = both_bright()
    some = problems(start, build_masks(BLOBS, KEYS, [0, 1, 4], background=True))
    vectors, solved = solve(some, examples(0))
    assert not solved.any() and torch.equal(vectors, some.start)


def test_the_ground_changes_as_one():
    """A decision about the lane alone: what is taken from an example is the road with it."""
    start = layouts(torch.tensor([[0.2, 0.3, 0.9, 0.1, 0.1, 0.6]]))
    lane = dataclasses.replace(NETWORKS, decide=lambda images: 10 * (images[:, 0, 0, 2:3] - 0.5))
    some = dataclasses.replace(problems(start), target=AttributeTarget(torch.tensor([0]), torch.tensor([False])))
    known = dataclasses.replace(examples(3), surfaces=torch.zeros(0, BLOBS + 1, dtype=torch.bool))
    vectors, solved = object_search(some, known, lane).solve(1)
    assert solved.all()
    assert some.form.changed(vectors, some.start)[0].nonzero()[:, 0].tolist() == [1, 2]
    after = some.form.unflatten(vectors)
    taken = [torch.equal(after.features[0, 1:3], known.layout.features[number, 1:3]) for number in range(6)]
    assert sum(taken) == 1


def test_a_surface_gets_another_look_where_it_lies():
    """The same decision: it is enough that the lane looks otherwise, and the road stays."""
    start = layouts(torch.tensor([[0.2, 0.3, 0.9, 0.1, 0.1, 0.6]]))
    lane = dataclasses.replace(NETWORKS, decide=lambda images: 10 * (images[:, 0, 0, 2:3] - 0.5))
    some = dataclasses.replace(problems(start), target=AttributeTarget(torch.tensor([0]), torch.tensor([False])))
    vectors, solved = object_search(some, examples(3, share=1.0), lane).solve(1)
    assert solved.all()
    after = some.form.unflatten(vectors)
    assert some.form.changed(vectors, some.start)[0].nonzero()[:, 0].tolist() == [2]
    assert all(torch.equal(getattr(after, key), getattr(start, key)) for key in KEYS[:4])


def test_several_answers_are_of_different_objects():
    start = layouts(torch.tensor([[0.2, 0.3, 0.4, 0.1, 0.1, 0.6]]))  # either cause may become bright
    some, known = problems(start), examples(1, count=40)
    vectors, solved = solve(some, known, count=2)
    assert solved.all()
    changed = some.form.changed(vectors, some.start.expand_as(vectors))
    assert (changed.sum(1) == 1).all() and not (changed[0] & changed[1]).any()
    assert (decide(render(some.form.unflatten(vectors))) > 0).all()
    assert not solve(some, known, count=3)[1].any()  # there is no third object to flip by


def test_a_search_takes_what_objects_solve_and_goes_by_gradients_where_they_do_not():
    start = layouts(torch.tensor([[0.2, 0.3, 0.4, 0.9, 0.1, 0.6], [0.2, 0.3, 0.4, 0.1, 0.2, 0.6]]))
    dark = layouts(torch.full((3, BLOBS + 1), 0.05))  # none of them can make anything bright
    known = ObjectExamples(dark, torch.ones(3, BLOBS + 1, dtype=torch.bool), objects_of(SLOTS), surfaces_of(SLOTS))
    some = problems(start)
    params = dataclasses.replace(PARAMS, examples=3, learning_rate=0.05)
    found = search(some, NetworkPair(NETWORKS, NETWORKS), params, 4, examples=known)
    assert found.flipped.all()
    assert found.step[0] == 0 and found.step[1] > 0
    assert found.changed[0].nonzero()[:, 0].tolist() == CAUSES[:1]
