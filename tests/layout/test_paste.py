"""Objects pasted from one image into another."""

import numpy as np
import pytest

from blobex.layout.paste import LEAST_VISIBLE, MARGIN, SHIFT, SIGNALS, LabelMaps, Paste, objects_of, paste, shifted
from blobex.layout.segments import THINGS, segment_masks
from blobex.scenes.labels import SEMANTIC
from blobex.scenes.render import render
from blobex.scenes.sample import sample

HEIGHT, WIDTH = 48, 64
OFF_ROAD = 2  # drivable: background


def blank() -> LabelMaps:
    """Return the maps of an image of sky."""
    semantic = np.full((HEIGHT, WIDTH), SEMANTIC.index("sky"))
    return LabelMaps(semantic, np.zeros((HEIGHT, WIDTH), dtype=int), np.full((HEIGHT, WIDTH), OFF_ROAD))


def with_thing(maps: LabelMaps, name: str, rows: slice, columns: slice) -> LabelMaps:
    semantic, things = maps.semantic.copy(), maps.things.copy()
    semantic[rows, columns], things[rows, columns] = SEMANTIC.index(name), things.max() + 1
    return LabelMaps(semantic, things, maps.drivable)


def with_stuff(maps: LabelMaps, name: str, rows: slice, columns: slice) -> LabelMaps:
    semantic = maps.semantic.copy()
    semantic[rows, columns] = SEMANTIC.index(name)
    return LabelMaps(semantic, maps.things, maps.drivable)


def signal(maps: LabelMaps) -> LabelMaps:
    """Return the maps with a light on a pole."""
    maps = with_stuff(maps, "pole", slice(12, 30), slice(40, 42))
    return with_stuff(maps, "traffic light", slice(6, 12), slice(39, 43))


def seeds(target: LabelMaps, source: LabelMaps, count: int = 40) -> list[Paste]:
    """Return the pastes of many seeds that find a place."""
    found = [paste(target, source, np.random.default_rng(seed)) for seed in range(count)]
    return [each for each in found if each is not None]


def moved_by(mask: np.ndarray, shift: tuple[int, int]) -> np.ndarray:
    """Move a mask pixel by pixel."""
    result = np.zeros_like(mask)
    for row, column in zip(*np.nonzero(mask), strict=True):
        place = row + shift[0], column + shift[1]
        if 0 <= place[0] < mask.shape[0] and 0 <= place[1] < mask.shape[1]:
            result[place] = mask[row, column]
    return result


def grown(mask: np.ndarray) -> np.ndarray:
    """Add the pixels at distance 1 along rows and columns."""
    result = mask.copy()
    for down, right in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        result |= moved_by(mask, (down, right))
    return result


@pytest.mark.parametrize("shift", [(0, 0), (3, -5), (-2, 7), (HEIGHT, 0)])
def test_shifted_moves_by_whole_pixels(shift: tuple[int, int]) -> None:
    values = np.random.default_rng(0).integers(1, 9, (HEIGHT, WIDTH))
    assert np.array_equal(shifted(values, *shift), moved_by(values, shift))


def test_a_thing_is_pasted_with_its_shift() -> None:
    target, source = blank(), with_thing(blank(), "car", slice(20, 30), slice(24, 40))
    pastes = seeds(target, source)
    assert len(pastes) == 40
    for each in pastes:
        assert abs(each.shift[0]) <= round(HEIGHT * SHIFT[0]) and abs(each.shift[1]) <= round(HEIGHT * SHIFT[1])
        place = moved_by(source.things > 0, each.shift)
        assert np.array_equal(each.mask, grown(place)) and MARGIN == 1
        ((group, mask),) = each.masks
        assert group == "vehicle" and np.array_equal(mask, place) and each.pasted == {0}
    assert len({each.shift for each in pastes}) > 15


def test_segments_of_the_result_are_those_of_its_maps() -> None:
    """Rendered scenes: with the object's labels in the place of the target's, the segments are the same."""
    checked = 0
    for seed in range(12):
        drawn = [render(sample(number)) for number in (seed, seed + 100)]
        target, source = (LabelMaps(each.semantic, each.instance % 256, each.drivable) for each in drawn)
        found = paste(target, source, np.random.default_rng(seed))
        if found is None:
            continue
        own = np.any([found.masks[number][1] for number in found.pasted], axis=0)
        assert own.any() and not (own & ~found.mask).any()
        semantic = np.where(own, shifted(source.semantic, *found.shift), target.semantic)
        group = found.masks[min(found.pasted)][0]
        things = np.where(own, target.things.max() + 1 if group in THINGS else 0, target.things)
        expected = segment_masks(semantic, things, target.drivable)
        assert [name for name, _ in expected] == [name for name, _ in found.masks]
        assert all(np.array_equal(one, other) for (_, one), (_, other) in zip(expected, found.masks, strict=True))
        assert {found.masks[number][0] for number in found.pasted} <= {group} | set(SIGNALS)
        checked += 1
    assert checked >= 5


def test_nearer_things_hide_a_pasted_one() -> None:
    """A thing is in front if it reaches farther down; a farther one is covered by the object."""
    source = with_thing(blank(), "car", slice(20, 30), slice(24, 40))
    near = with_thing(blank(), "bus", slice(26, 46), slice(20, 26))
    far = with_thing(blank(), "bus", slice(4, 24), slice(26, 32))
    overlapped = 0
    for each in seeds(near, source):
        place = moved_by(source.things > 0, each.shift)
        overlapped += int((place & (near.things > 0)).any())
        own = each.masks[min(each.pasted)][1]
        assert np.array_equal(own, place & ~(near.things > 0))
        assert np.array_equal(each.masks[0][1], near.things > 0)  # the near one is whole
        assert not (each.mask & (near.things > 0)).any()
    assert overlapped
    for each in seeds(far, source):
        place = moved_by(source.things > 0, each.shift)
        assert np.array_equal(each.masks[min(each.pasted)][1], place)
        assert np.array_equal(each.masks[0][1], (far.things > 0) & ~place)


def test_an_object_that_is_mostly_hidden_is_not_pasted() -> None:
    source = with_thing(blank(), "car", slice(20, 30), slice(24, 40))
    wall = with_thing(blank(), "bus", slice(10, 47), slice(0, WIDTH))
    assert not seeds(wall, source)
    half = with_thing(blank(), "bus", slice(10, 47), slice(0, 32))
    for each in seeds(half, source):
        assert each.masks[min(each.pasted)][1].sum() >= LEAST_VISIBLE * 160
    assert 0 < len(seeds(half, source)) < 40


def test_a_light_is_pasted_with_its_pole_at_its_place() -> None:
    source = signal(blank())
    ((groups, mask),) = objects_of(source.masks())
    assert groups == ("pole", "light") and np.array_equal(mask, source.semantic != blank().semantic)
    pastes = seeds(blank(), source, 5)
    assert len(pastes) == 5
    for each in pastes:
        assert each.shift == (0, 0) and {each.masks[number][0] for number in each.pasted} == {"pole", "light"}
        assert np.array_equal(each.mask, grown(source.semantic != blank().semantic))


def test_signals_are_pasted_only_where_there_are_none() -> None:
    assert not seeds(signal(blank()), signal(blank()))
    assert not seeds(with_stuff(blank(), "pole", slice(2, 30), slice(3, 5)), signal(blank()))
    crowded = with_thing(signal(blank()), "car", slice(34, 40), slice(4, 24))
    for each in seeds(signal(blank()), crowded):
        assert each.masks[min(each.pasted)][0] == "vehicle"


def test_a_pole_alone_is_no_object() -> None:
    pole = with_stuff(blank(), "pole", slice(2, 30), slice(3, 5))
    assert objects_of(pole.masks()) == [] and not seeds(blank(), pole)


def test_the_margin_leaves_other_things_alone() -> None:
    """A farther thing beside the object keeps its pixels."""
    source = with_thing(blank(), "car", slice(20, 30), slice(24, 40))
    beside = with_thing(blank(), "bus", slice(8, 26), slice(0, 64))
    for each in seeds(beside, source):
        place = moved_by(source.things > 0, each.shift)
        assert not (each.mask & (beside.things > 0) & ~place).any()


def test_choices_follow_from_the_seed() -> None:
    target = with_thing(blank(), "bus", slice(26, 46), slice(20, 26))
    source = with_thing(with_thing(blank(), "car", slice(20, 30), slice(24, 40)), "person", slice(10, 26), slice(8, 12))
    groups = set()
    for seed in range(20):
        first, second = (paste(target, source, np.random.default_rng(seed)) for _ in range(2))
        if first is None or second is None:
            assert first is second
            continue
        assert first.shift == second.shift and np.array_equal(first.mask, second.mask)
        groups.add(first.masks[min(first.pasted)][0])
    assert groups == {"vehicle", "person"}  # any object of the image may be chosen
    assert not seeds(target, blank())


class Recording(np.random.Generator):
    """Generator that keeps the chances of the last choice."""

    chances: np.ndarray

    def choice(self, count: int, p: np.ndarray) -> int:
        assert len(p) == count
        self.chances = p
        return super().choice(count, p=p)


def test_the_chance_of_an_object_grows_with_its_height_and_width() -> None:
    source = with_thing(blank(), "car", slice(20, 30), slice(24, 40))
    source = with_thing(source, "person", slice(10, 20), slice(8, 12))
    random = Recording(np.random.PCG64(0))
    assert paste(blank(), source, random) is not None
    np.testing.assert_allclose(random.chances, np.array([2.0, 1.0]) / 3)  # 10x16 and 10x4 pixels
