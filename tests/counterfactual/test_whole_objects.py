"""Whole-object changes, in a world where each present blob lights a column of the image."""

import dataclasses

import pytest
import torch
from torch import Tensor
from worlds.linear_world import PARAMS, MeanAbsolute

from blobex.counterfactual.compose import Composer
from blobex.counterfactual.masks import build_masks
from blobex.counterfactual.object_examples import ObjectExamples, groups_of, objects_of, surfaces_of
from blobex.counterfactual.problems import Problems, SearchContext
from blobex.counterfactual.search import search
from blobex.counterfactual.target import AttributeTarget
from blobex.counterfactual.whole_objects import (
    AS_CONFIDENT,
    CONFIDENT,
    LEAST_MARGIN,
    LIGHT,
    OBJECT,
    SIMPLE,
    SURFACE,
    ObjectSearch,
)
from blobex.layout.blobs import ABSENT, KEYS, BlobLayout, concatenate
from blobex.layout.splat import splat
from blobex.optim.network_callables import NetworkPair, Networks

BLOBS = 5
SLOTS = {"road": 1, "lane": 1, "vehicle": 3}  # the first two blobs are one object
CAUSES = [3, 4]  # columns that decide when they are bright: blobs 2 and 3


def render(layout: BlobLayout) -> Tensor:
    """Render (N,3,2,K+1): column k is as bright as the first feature of entry k, if present."""
    there = torch.cat([torch.ones_like(layout.xs[:, :1]), (layout.sizes[:, 1:] > 0).float()], 1)
    return (there * layout.features[..., 0])[:, None, None].repeat(1, 3, 2, 1)


def decide(images: Tensor) -> Tensor:
    """Return a logit (N,1): above 0 if any of the columns CAUSES is bright."""
    return 10 * (images[:, :, :, CAUSES].amax((1, 2, 3)) - 0.5)[:, None]


NETWORKS = Networks(
    render, lambda layout: splat(layout, 8, 8), lambda images: layouts(images[:, 0, 0]), decide, decide, MeanAbsolute()
)


def layouts(bright: Tensor, present: Tensor | None = None) -> BlobLayout:
    """Return layouts with brightness `bright` (N,K+1)."""
    count = len(bright)
    sizes = torch.full((count, BLOBS + 1), 2.0)
    if present is not None:
        sizes[:, 1:] = torch.where(present, sizes[:, 1:], ABSENT)
    places = torch.full((2, count, BLOBS), 0.5)
    appearance = torch.stack([bright, bright.square()], 2)
    return BlobLayout(places[0], places[1], torch.ones(count, BLOBS, 4), sizes, appearance, appearance.clone())


def examples(seed: int, count: int = 6, share: float = 0.7) -> ObjectExamples:
    """Return random examples with a share of the blobs present."""
    random = torch.Generator().manual_seed(seed)
    present = torch.rand(count, BLOBS, generator=random) < share
    layout = layouts(torch.rand(count, BLOBS + 1, generator=random), present)
    present = torch.cat([torch.ones(count, 1, dtype=torch.bool), present], 1)
    return ObjectExamples(layout, present, objects_of(SLOTS), surfaces_of(SLOTS), groups_of(SLOTS))


def problems(start: BlobLayout, allowed: dict[str, Tensor] | None = None) -> Problems:
    """Return one problem per image: invert the decision."""
    index = torch.arange(len(start))
    target = AttributeTarget(torch.zeros_like(index), decide(render(start))[:, 0] <= 0)
    allowed = build_masks(BLOBS, KEYS, None, background=True) if allowed is None else allowed
    built = Problems.of(render(start), start, index, target, allowed, PARAMS.lambda_key)
    return dataclasses.replace(built, price=torch.ones_like(built.price))


def object_search(batch: Problems, known: ObjectExamples, networks: Networks = NETWORKS) -> ObjectSearch:
    params = dataclasses.replace(PARAMS, examples=100)
    return ObjectSearch(batch, SearchContext(Composer(networks, batch.form), params, 8), known)


def solve(batch: Problems, known: ObjectExamples, count: int = 1) -> tuple[Tensor, Tensor]:
    return object_search(batch, known).solve(count)


def evaluate(change: BlobLayout, start: BlobLayout, before: float) -> tuple[float, float, float]:
    """Return the margin of a change, its mean change of pixels, and the share of the best margin that it needs."""
    margin = float(decide(render(change))[0, 0]) * (-1 if before > 0 else 1)
    adds = bool(((change.sizes > 0) & (start.sizes <= 0))[:, 1:].any())
    return margin, float((render(change) - render(start)).abs().mean()), CONFIDENT if adds else SIMPLE


def beside(start: BlobLayout, other: BlobLayout, blob: int) -> list[BlobLayout]:
    """Return the layout with the vehicle `blob` of another, if its blob is taken: in the nearest free one."""
    vehicles = [3, 4, 5]
    free = [each for each in vehicles if float(start.sizes[0, each]) <= 0]
    if blob not in vehicles or blob in free or not free:
        return []
    into = min(free, key=lambda each: abs(each - blob))
    change = {key: getattr(start, key).clone() for key in ("sizes", *KEYS[4:])}
    for key in change:
        change[key][0, into] = getattr(other, key)[0, blob]
    return [start.replace(change)]


def plain_single(start: BlobLayout, known: ObjectExamples) -> float | None:
    """Return the least change of pixels of a confident flip by one object, by exhaustive loops."""
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
            chosen = own[None, :, None]
            appearance = {key: torch.where(chosen, getattr(other, key), getattr(start, key)) for key in KEYS[4:]}
            sizes = torch.where(own, other.sizes, start.sizes)
            if len(entries) == 1 and entries[0] > 0 and float(start.sizes[0, entries[0]]) > 0:
                changes.append(start.replace(appearance))
            if entries[0] > 0:
                changes.append(start.replace(appearance | {"sizes": sizes}))
                changes += beside(start, other, entries[0])
        found += [evaluate(change, start, before) for change in changes]
    for number in range(len(known.layout)):
        for entries in ([0], [1], [2], [0, 1, 2]):  # the background, the road, the lane, all of them
            sky = known.layout.features[:, 0, 0]
            alike = sorted(range(len(sky)), key=lambda other: float((sky[other] - sky[number]).abs()))
            appearance = {key: getattr(start, key).clone() for key in KEYS[4:]}
            for entry in entries:  # relit: the blob of the example with the most similar background that has it
                having = [other for other in (alike if entries[0] == 0 else [number]) if known.present[other, entry]]
                for key in appearance if having else ():
                    appearance[key][0, entry] = getattr(known.layout, key)[having[0], entry]
            found.append((*evaluate(start.replace(appearance), start, before)[:2], CONFIDENT))
    surest = max(margin for margin, amount, _ in found if amount > 0)
    least = max(AS_CONFIDENT * abs(before), LEAST_MARGIN)
    sure = [amount for margin, amount, share in found if margin >= max(least, share * surest) and amount > 0]
    return min(sure) if sure else None


@pytest.mark.parametrize("seed", range(12))
def test_single_objects_equal_exhaustive_search(seed: int) -> None:
    random = torch.Generator().manual_seed(100 + seed)
    bright = torch.rand(1, BLOBS + 1, generator=random)
    bright[0, CAUSES[1]] = 0.1  # at most one cause, so that one object suffices
    start = layouts(bright, torch.rand(1, BLOBS, generator=random) < 0.8)
    known, batch = examples(seed), problems(start)
    vectors, solved = solve(batch, known)
    expected = plain_single(start, known)
    assert bool(solved[0]) == (expected is not None)
    if expected is not None:
        after = batch.form.unflatten(vectors)
        assert float((render(after) - render(start)).abs().mean()) == pytest.approx(expected, abs=1e-7)


def both_bright() -> tuple[BlobLayout, Problems]:
    start = layouts(torch.tensor([[0.2, 0.3, 0.4, 0.9, 0.9, 0.6]]))
    return start, problems(start)


def test_two_causes_are_removed_together() -> None:
    _, batch = both_bright()
    vectors, solved = solve(batch, examples(0))
    assert solved.all()
    assert batch.form.changed(vectors, batch.start)[0].nonzero()[:, 0].tolist() == CAUSES
    after = batch.form.unflatten(vectors)
    assert (after.sizes[0, CAUSES] == ABSENT).all() and float(decide(render(after))[0, 0]) < 0


def test_irrelevant_blobs_solve_nothing() -> None:
    start, _ = both_bright()
    batch = problems(start, build_masks(BLOBS, KEYS, [0, 1, 4], background=True))
    vectors, solved = solve(batch, examples(0))
    assert not solved.any() and torch.equal(vectors, batch.start)


def test_the_ground_is_one_object() -> None:
    """If the lane is exchanged, the road comes with it from the same example."""
    start = layouts(torch.tensor([[0.2, 0.3, 0.9, 0.1, 0.1, 0.6]]))
    batch, known = problems(start), examples(3)
    changes = object_search(batch, known)._surface_changes(batch.start[0], batch.mask[0])
    after = batch.form.unflatten(changes)
    whole = (after.sizes[:, 1:3] != start.sizes[:, 1:3]).any(1)  # an appearance alone has no size
    assert whole.any()
    pairs = [row.tolist() for row in known.layout.features[:, 1:3, 0]]
    assert all(row.tolist() in pairs for row in after.features[whole, 1:3, 0])


def test_a_surface_changes_its_appearance_only() -> None:
    """The lane changes its appearance, and the road stays."""
    start = layouts(torch.tensor([[0.2, 0.3, 0.9, 0.1, 0.1, 0.6]]))
    lane = dataclasses.replace(NETWORKS, decide=lambda images: 10 * (images[:, 0, 0, 2:3] - 0.5))
    batch = dataclasses.replace(problems(start), target=AttributeTarget(torch.tensor([0]), torch.tensor([False])))
    vectors, solved = object_search(batch, examples(3, share=1.0), lane).solve(1)
    assert solved.all()
    after = batch.form.unflatten(vectors)
    assert batch.form.changed(vectors, batch.start)[0].nonzero()[:, 0].tolist() == [2]
    assert all(torch.equal(getattr(after, key), getattr(start, key)) for key in KEYS[:4])


def test_counterfactuals_of_one_problem_change_different_objects() -> None:
    start = layouts(torch.tensor([[0.2, 0.3, 0.4, 0.1, 0.1, 0.6]]))  # either cause can become bright
    batch, known = problems(start), examples(1, count=40)
    vectors, solved = solve(batch, known, count=2)
    assert solved.all()
    changed = batch.form.changed(vectors, batch.start.expand_as(vectors))
    assert (changed.sum(1) == 1).all() and not (changed[0] & changed[1]).any()
    assert (decide(render(batch.form.unflatten(vectors))) > 0).all()
    vectors, solved = solve(batch, known, count=3)
    changed = batch.form.changed(vectors, batch.start.expand_as(vectors))
    assert solved.all() and changed.any(1).tolist() == [True, True, False]  # no third object flips


def test_search_uses_objects_first_and_gradients_for_the_rest() -> None:
    start = layouts(torch.tensor([[0.2, 0.3, 0.4, 0.9, 0.1, 0.6], [0.2, 0.3, 0.4, 0.1, 0.2, 0.6]]))
    dark = layouts(torch.full((3, BLOBS + 1), 0.05))  # no example is bright
    known = ObjectExamples(
        dark, torch.ones(3, BLOBS + 1, dtype=torch.bool), objects_of(SLOTS), surfaces_of(SLOTS), groups_of(SLOTS)
    )
    batch = problems(start)
    params = dataclasses.replace(PARAMS, examples=3, learning_rate=0.05)
    found = search(batch, NetworkPair(NETWORKS, NETWORKS), params, 4, examples=known)
    assert found.flipped.all()
    assert found.step[0] == 0 and found.step[1] > 0
    assert found.changed[0].nonzero()[:, 0].tolist() == CAUSES[:1]


TRAFFIC = {"road": 1, "pole": 1, "light": 1, "vehicle": 2}  # pole and light are one object
COLOURS = {"red": 0.9, "green": 0.1, "amber": 0.6}  # brightness of the light's column


def traffic(light: float | None, vehicles: tuple[bool, bool] = (False, False)) -> BlobLayout:
    """Return a grey road, with a light of this brightness on a pole, and vehicles."""
    bright = torch.tensor([[0.2, 0.3, 0.4, 0.4 if light is None else light, 0.5, 0.5]])
    return layouts(bright, torch.tensor([[True, light is not None, light is not None, *vehicles]]))


def stop(images: Tensor) -> Tensor:
    """Return a logit (N,1): above 0 if the light is red."""
    return 10 * (images[:, 0, 0, 3:4] - 0.5)


DRIVER = dataclasses.replace(NETWORKS, decide=stop)


def traffic_examples(*lights: float | None) -> ObjectExamples:
    layout = concatenate([traffic(light) for light in lights])
    present = torch.cat([torch.ones(len(lights), 1, dtype=torch.bool), layout.sizes[:, 1:] > 0], 1)
    return ObjectExamples(layout, present, objects_of(TRAFFIC), surfaces_of(TRAFFIC), groups_of(TRAFFIC))


def questions(start: BlobLayout, networks: Networks = DRIVER) -> Problems:
    batch = problems(start)
    outputs = networks.decide(networks.render(start))
    return dataclasses.replace(
        batch, target=AttributeTarget(torch.zeros(len(start), dtype=torch.long), outputs[:, 0] <= 0)
    )


def test_a_removed_light_takes_its_pole_along() -> None:
    start = traffic(COLOURS["red"])
    batch = questions(start)
    vectors, solved = object_search(batch, traffic_examples(None, COLOURS["red"]), DRIVER).solve(1)
    after = batch.form.unflatten(vectors)
    assert solved.all() and batch.form.changed(vectors, batch.start)[0].nonzero()[:, 0].tolist() == [2, 3]
    assert (after.sizes[0, 2:4] == ABSENT).all()
    assert torch.equal(after.features, start.features)


def test_an_added_light_brings_its_pole() -> None:
    start = traffic(None)
    batch = questions(start)
    vectors, solved = object_search(batch, traffic_examples(COLOURS["red"], None), DRIVER).solve(1)
    after = batch.form.unflatten(vectors)
    assert solved.all() and (after.sizes[0, 2:4] > 0).all()
    assert torch.equal(after.features[0, 2:4], traffic(COLOURS["red"]).features[0, 2:4])


@pytest.mark.parametrize("wanted", ["red", "green"])
def test_examples_of_both_colours_are_tried(wanted: str) -> None:
    """Only two examples may be tried, and most of the others with a light show the colour that it has."""
    shown = "green" if wanted == "red" else "red"
    near = [COLOURS[shown] + 0.001 * number for number in range(12)]
    known = traffic_examples(*near, COLOURS[wanted], None)
    batch = questions(traffic(COLOURS[shown]))
    params = dataclasses.replace(PARAMS, examples=2)
    allowed = build_masks(BLOBS, KEYS[4:], None, background=True)  # appearances only: a light may not disappear
    batch = dataclasses.replace(batch, mask=batch.form.mask(allowed))
    search = ObjectSearch(batch, SearchContext(Composer(DRIVER, batch.form), params, 8), known)
    vectors, solved = search.solve(1)
    after = batch.form.unflatten(vectors)
    assert solved.all() and after.features[0, 3, 0] == pytest.approx(COLOURS[wanted])
    assert torch.equal(after.sizes, batch.form.unflatten(batch.start).sizes)


def plain_diverse(candidates: list[float], count: int) -> list[int]:
    """Choose the first number, then always the one farthest from those chosen."""
    chosen = [0]
    while len(chosen) < count:
        distances = [
            min(abs(candidates[each] - candidates[other]) for other in chosen) for each in range(len(candidates))
        ]
        chosen.append(distances.index(max(distances)))
    return chosen


def test_tried_examples_are_diverse() -> None:
    lights = [0.5, 0.52, 0.9, 0.1, 0.3, None, 0.12]
    known, batch = traffic_examples(*lights), questions(traffic(COLOURS["red"]))
    having = [light for light in lights if light is not None]
    for count in (1, 2, 3, 4):
        params = dataclasses.replace(PARAMS, examples=count)
        search = ObjectSearch(batch, SearchContext(Composer(DRIVER, batch.form), params, 8), known)
        chosen = search._different(torch.arange(len(lights)), torch.tensor([False, False, False, True, False, False]))
        expected = [lights.index(having[number]) for number in plain_diverse(having, count)]
        assert chosen.tolist() == expected


def test_removal_is_preferred_to_another_light_of_the_scene() -> None:
    """Another sky changes fewer pixels and flips as surely, but one object explains more."""
    either = dataclasses.replace(
        DRIVER, decide=lambda images: 10 * (images[:, 0, 0, 3:4] - 3 * images[:, 0, 0, :1] + 0.1)
    )
    start = traffic(0.9)
    known = traffic_examples(0.9, 0.9)
    known.layout.features[:, 0] = torch.tensor([0.6, 0.36])
    batch = questions(start, either)
    search = object_search(batch, known, either)
    for extent in (LIGHT, OBJECT):
        candidates = search.candidates(batch.start[0], batch.mask[0], torch.tensor(0), extent)
        assert batch.target.margin(candidates.outputs[:1]) < 0
        assert (either.decide(render(batch.form.unflatten(candidates.vectors)))[:, 0] < -4).any()
    vectors, solved = search.solve(1)
    assert solved.all() and batch.form.changed(vectors, batch.start)[0].nonzero()[:, 0].tolist() == [2, 3]


@pytest.mark.parametrize(("own", "extent", "blobs"), [(3, OBJECT, [2, 3]), (1, SURFACE, [1]), (0, LIGHT, [0])])
def test_the_least_extent_that_flips_is_the_answer(own: int, extent: int, blobs: list[int]) -> None:
    """The decision is about one column: that of the light, the road or the sky."""
    about = dataclasses.replace(DRIVER, decide=lambda images: 10 * (images[:, 0, 0, own : own + 1] - 0.5))
    start = traffic(0.9)
    known = traffic_examples(0.1, 0.9)
    known.layout.features[0, :3] = 0.9  # the sky, the road and the pole of one example are bright
    batch = questions(start, about)
    search = object_search(batch, known, about)
    vectors, solved = search.solve(1)
    changed = batch.form.changed(vectors, batch.start)[0].nonzero()[:, 0].tolist()
    assert solved.all() and set(changed) <= {0, 1} | set(blobs) and own in changed
    candidates = search.candidates(batch.start[0], batch.mask[0], torch.tensor(0), extent)
    place = (candidates.vectors == vectors).all(1).nonzero()[0]
    assert not candidates.amount[0] and candidates.amount[place] > 0


def test_no_object_search_relights_before_several_objects_are_tried() -> None:
    """Two vehicles are the cause: both disappear, although another sky would flip the decision, too."""
    crowd = dataclasses.replace(
        DRIVER, decide=lambda images: 10 * (images[:, 0, 0, 4:].amax(1, keepdim=True) - 0.3 - images[:, 0, 0, :1])
    )
    start = traffic(None, (True, True)).replace({})
    start.features[:, 0] = 0.0
    known = traffic_examples(None, None)
    known.layout.features[:, 0] = 0.6
    batch = questions(start, crowd)
    vectors, solved = object_search(batch, known, crowd).solve(1)
    after = batch.form.unflatten(vectors)
    assert solved.all() and batch.form.changed(vectors, batch.start)[0].nonzero()[:, 0].tolist() == [4, 5]
    assert (after.sizes[0, 4:] == ABSENT).all()


def test_a_light_changes_its_colour_without_its_pole() -> None:
    """The pole of the example looks different, but nothing has to be seen of it."""
    start = traffic(COLOURS["red"])
    known = traffic_examples(COLOURS["green"], COLOURS["red"])
    known.layout.features[0, 2] = 0.9
    batch = questions(start)
    batch = dataclasses.replace(batch, mask=batch.form.mask(build_masks(BLOBS, KEYS[4:], None, background=True)))
    vectors, solved = object_search(batch, known, DRIVER).solve(1)
    assert solved.all() and batch.form.changed(vectors, batch.start)[0].nonzero()[:, 0].tolist() == [3]


@pytest.mark.parametrize("background", [False, True])
def test_the_scene_has_another_light_only_with_its_sky(background: bool) -> None:
    batch, known = questions(traffic(None)), traffic_examples(0.1, 0.9)
    known.layout.features[:, 0] = 0.9
    batch = dataclasses.replace(batch, mask=batch.form.mask(build_masks(BLOBS, KEYS[4:], None, background=background)))
    search = object_search(batch, known, DRIVER)
    candidates = search.candidates(batch.start[0], batch.mask[0], torch.tensor(0), LIGHT)
    assert bool(candidates.amount.any()) == background


def crowded(place: float) -> tuple[Problems, ObjectExamples]:
    """Return a question about a road with one vehicle, and an example with two vehicles at `place`."""
    known = dataclasses.replace(
        traffic_examples(None),
        layout=traffic(None, (True, True)),
        present=torch.tensor([[True, True, False, False, True, True]]),
    )
    known.layout.xs[:] = place
    return questions(traffic(None, (True, False))), known


def test_an_exchange_counts_as_a_removal_and_an_insertion() -> None:
    batch, known = crowded(0.25)
    search, start = object_search(batch, known, DRIVER), batch.form.unflatten(batch.start)
    changes = search._object_changes(batch.start[0], batch.mask[0])
    after = batch.form.unflatten(changes)
    exchanged = (after.xs[:, 3] != start.xs[0, 3]) & (after.sizes[:, 4] > 0)
    assert torch.equal(search._exchanged(changes, batch.start[0]), exchanged) and exchanged.any()
    adds = (after.sizes[:, 5] > 0) & (start.sizes[0, 5] <= 0)
    assert torch.equal(search._adds(changes, batch.start[0]), adds) and adds.any()
    candidates = search.candidates(batch.start[0], batch.mask[0], torch.tensor(0), OBJECT)
    assert candidates.share.unique().tolist() == pytest.approx([SIMPLE, CONFIDENT])


def test_an_object_is_added_beside_the_one_whose_blob_it_has() -> None:
    """The second vehicle takes a free blob, so that the first stays."""
    batch, known = crowded(0.25)
    changes = object_search(batch, known, DRIVER)._object_changes(batch.start[0], batch.mask[0])
    after, start = batch.form.unflatten(changes), batch.form.unflatten(batch.start)
    first = (after.xs[:, 3] == start.xs[0, 3]) & (after.sizes[:, 4] > 0)
    both = first & (after.xs[:, 4] == 0.25) & (after.sizes[:, 5] > 0)
    assert both.sum() == 2  # either vehicle of the example
    full = questions(traffic(None, (True, True)))
    changes = object_search(full, known, DRIVER)._object_changes(full.start[0], full.mask[0])
    sizes = full.form.unflatten(changes).sizes
    assert ((sizes[:, 4:] > 0).sum(1) <= 2).all()  # no blob is free


def test_where_several_causes_refuse_a_light_turns_green() -> None:
    """A red light and a vehicle: the light keeps its pole and its place."""
    both = dataclasses.replace(
        DRIVER, decide=lambda images: 10 * (torch.maximum(images[:, 0, 0, 3:4], images[:, 0, 0, 4:5]) - 0.45)
    )
    start = traffic(COLOURS["red"], (True, False))
    batch = questions(start, both)
    vectors, solved = object_search(batch, traffic_examples(COLOURS["green"], COLOURS["red"]), both).solve(1)
    after = batch.form.unflatten(vectors)
    assert solved.all() and batch.form.changed(vectors, batch.start)[0].nonzero()[:, 0].tolist() == [3, 4]
    assert (after.sizes[0, 2:4] > 0).all() and after.features[0, 3, 0] == pytest.approx(COLOURS["green"])


def test_several_removed_objects_leave_the_scenery() -> None:
    """Without the building the flip would be surer, but what stands behind a building is unknown."""
    slots = {"road": 1, "building": 1, "vehicle": 3}
    crowd = dataclasses.replace(
        DRIVER, decide=lambda images: 10 * (images[:, 0, 0, 4:].amax(1, keepdim=True) + images[:, 0, 0, 2:3] - 0.45)
    )
    start = layouts(torch.tensor([[0.2, 0.3, 0.2, 0.5, 0.5, 0.5]]), torch.tensor([[True, True, False, True, True]]))
    known = traffic_examples(None, None)
    known = dataclasses.replace(known, objects=objects_of(slots), surfaces=surfaces_of(slots))
    known = dataclasses.replace(known, layout=start, present=torch.tensor([[True, True, True, False, False, False]]))
    batch = questions(start, crowd)
    vectors, solved = object_search(batch, known, crowd).solve(1)
    assert solved.all() and batch.form.changed(vectors, batch.start)[0].nonzero()[:, 0].tolist() == [4, 5]


def test_nothing_is_rendered_where_no_removal_flips() -> None:
    """Networks need at least one row."""
    rows = list[int]()

    def counted(layout: BlobLayout) -> Tensor:
        rows.append(len(layout))
        return render(layout)

    never = dataclasses.replace(DRIVER, render=counted, decide=lambda images: images[:, 0, 0, 3:4] * 0 + 1)
    batch = questions(traffic(COLOURS["red"], (True, True)), never)
    _, solved = object_search(batch, traffic_examples(COLOURS["red"], None), never).solve(1)
    assert not solved.any() and min(rows) > 0
