"""Training pairs with pasted objects: which are chosen, and the batches of them."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor
from worlds.toy_training import TRAINING

from blobex.layout.assign import BlobAnchors, assign_segments, fit_anchors
from blobex.layout.paste import LabelMaps, shifted
from blobex.layout.segments import segment_from_mask
from blobex.layout.splat import Canvas
from blobex.scenes.labels import SEMANTIC
from blobex.training.painting_data import (
    BlobSlots,
    PaintingData,
    PasteChoice,
    PastedObjects,
    choose_pastes,
    paste_objects,
    shift_images,
)

HEIGHT, WIDTH, COUNT = 24, 32, 24
SLOTS = {"vegetation": 1, "vehicle": 3}
CANVAS = Canvas(HEIGHT, 1, area=0.004)


def car(number: int) -> LabelMaps:
    """Return the maps of an image with one car; every sixth has none."""
    random = np.random.default_rng(number)
    semantic = np.full((HEIGHT, WIDTH), SEMANTIC.index("sky"))
    things = np.zeros((HEIGHT, WIDTH), dtype=int)
    if number % 6 != 5:
        top, left = random.integers(6, 14), random.integers(4, 20)
        things[top : top + 6, left : left + 8] = 1
    semantic[things > 0] = SEMANTIC.index("car")
    return LabelMaps(semantic, things, np.full((HEIGHT, WIDTH), 2))


MAPS = [car(number) for number in range(COUNT)]


def pictures() -> Tensor:
    """Return images of noise, dark and bright ones in turns."""
    noise = torch.randint(0, 40, (COUNT, 3, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(0))
    return (noise + 180 * (torch.arange(COUNT) % 2)[:, None, None, None]).to(torch.uint8)


IMAGES = pictures()


def slots() -> BlobSlots:
    segments = [[segment_from_mask(*mask) for mask in maps.masks()] for maps in MAPS]
    return BlobSlots(SLOTS, fit_anchors(segments, SLOTS, CANVAS), CANVAS)


@pytest.fixture(scope="module")
def choices() -> list[PasteChoice]:
    return choose_pastes(IMAGES, MAPS, 0, 0)


@pytest.fixture(scope="module")
def pasted(choices: list[PasteChoice]) -> PastedObjects:
    return paste_objects(choices, (HEIGHT, WIDTH), slots())


def same(first: PasteChoice, second: PasteChoice) -> bool:
    if first.paste is None or second.paste is None:
        return first.source == second.source and first.paste is second.paste
    return first.paste.shift == second.paste.shift and np.array_equal(first.paste.mask, second.paste.mask)


def test_choices_follow_from_the_seed(choices: list[PasteChoice]) -> None:
    before = np.random.get_state()[1].copy()
    again = choose_pastes(IMAGES, MAPS, 0, 0)
    assert all(map(same, choices, again)) and np.array_equal(before, np.random.get_state()[1])
    assert not all(map(same, choices, choose_pastes(IMAGES, MAPS, 0, 1)))


def test_the_object_is_of_another_image_in_similar_light(choices: list[PasteChoice]) -> None:
    assert all(choice.source != number for number, choice in enumerate(choices) if choice.paste)
    assert sum(choice.source % 2 == number % 2 for number, choice in enumerate(choices)) >= COUNT - 1
    assert sum(choice.paste is not None for choice in choices) > COUNT / 2
    assert not any(choice.paste for choice in choices if choice.source % 6 == 5)  # nothing to paste


def test_later_images_choose_among_themselves() -> None:
    choices = choose_pastes(IMAGES, MAPS[8:], 8, 0)
    assert len(choices) == COUNT - 8 and all(8 <= choice.source < COUNT for choice in choices)
    pastes = [choice for choice in choices if choice.paste]
    assert pastes
    for choice in pastes:
        moved = shifted(MAPS[choice.source].things, *choice.paste.shift) > 0
        assert moved[choice.paste.masks[min(choice.paste.pasted)][1]].all()


def test_one_image_has_no_other() -> None:
    (choice,) = choose_pastes(IMAGES, MAPS[:1], 0, 0)
    assert choice.paste is None


def test_composites_are_the_target_outside_and_the_moved_source_inside(
    choices: list[PasteChoice], pasted: PastedObjects
) -> None:
    numbers = torch.tensor([3, 0, 17, 5, 11])
    composite, mask, moved = pasted.composite(IMAGES, numbers)
    for row, number in enumerate(numbers.tolist()):
        choice = choices[number]
        inside = np.zeros((HEIGHT, WIDTH), dtype=bool) if choice.paste is None else choice.paste.mask
        assert np.array_equal(mask[row, 0].numpy(), inside)
        assert torch.equal(composite[row][:, ~inside], IMAGES[number][:, ~inside])
        down, right = choice.paste.shift if choice.paste else (0, 0)
        for y, x in zip(*np.nonzero(inside), strict=True):
            source = IMAGES[choice.source][:, max(y - down, 0), max(x - right, 0)]
            assert torch.equal(composite[row, :, y, x], source) and torch.equal(moved[row, :, y, x], source)
    one = pasted.composite(IMAGES, numbers[2:3])
    assert torch.equal(one[0][0], composite[2]) and torch.equal(one[2][0], moved[2])


@pytest.mark.parametrize("shift", [(0, 0), (2, -3), (-5, 4)])
def test_a_moved_image_repeats_its_border(shift: tuple[int, int]) -> None:
    padded = torch.nn.functional.pad(IMAGES[:1].float(), (6, 6, 6, 6), mode="replicate")[0]
    expected = padded[:, 6 - shift[0] : 6 - shift[0] + HEIGHT, 6 - shift[1] : 6 - shift[1] + WIDTH]
    other = torch.tensor([1, -1])  # each image has its own shift
    moved = shift_images(IMAGES[:2], torch.stack([torch.tensor(shift), other]))
    assert torch.equal(moved[0].float(), expected)
    assert torch.equal(moved[1], shift_images(IMAGES[1:2], other[None])[0])


def test_blobs_of_the_object_stand_where_it_was_pasted(choices: list[PasteChoice], pasted: PastedObjects) -> None:
    used = slots()
    for number, choice in enumerate(choices):
        if choice.paste is None:
            assert not pasted.blobs[number].any() and not pasted.mask[number].any()
            continue
        (blob,) = pasted.blobs[number].nonzero()[:, 0].tolist()
        assert blob > 0 and pasted.ellipses.present[number, blob]  # a vehicle
        own = choice.paste.masks[min(choice.paste.pasted)][1]
        rows, columns = np.nonzero(own)
        ellipses = pasted.ellipses
        assert ellipses.ys[number, blob].item() == pytest.approx(rows.mean() / HEIGHT, abs=1e-5)
        assert ellipses.xs[number, blob].item() == pytest.approx(columns.mean() / HEIGHT, abs=1e-5)
        segments = [segment_from_mask(*mask) for mask in choice.paste.masks]
        alone = assign_segments([segments], SLOTS, used.anchors, CANVAS)
        for one, all_of_them in zip(alone.tensors(), ellipses.tensors(), strict=True):
            assert torch.equal(one[0], all_of_them[number])


def test_an_object_without_a_blob_is_not_used(choices: list[PasteChoice]) -> None:
    """There are blobs for vegetation only."""
    anchors = BlobAnchors(torch.zeros(1, 3), torch.tensor([[0.5, 0.5, 0.0, 1.0, 0.0, -30.0]]))
    pasted = paste_objects(choices, (HEIGHT, WIDTH), BlobSlots({"vegetation": 1}, anchors, CANVAS))
    assert not pasted.blobs.any() and not pasted.mask.any()
    composite, mask, _ = pasted.composite(IMAGES, torch.arange(COUNT))
    assert torch.equal(composite, IMAGES) and not mask.any()


def data_of(pasted: PastedObjects, images: Tensor = IMAGES) -> PaintingData:
    segments = [[segment_from_mask(*mask) for mask in maps.masks()] for maps in MAPS]
    return PaintingData(images, assign_segments(segments, SLOTS, slots().anchors, CANVAS), pasted)


def test_batches_hold_the_rows_of_their_images(pasted: PastedObjects) -> None:
    data, numbers = data_of(pasted), torch.tensor([9, 2, 2])
    batch = data.batch(numbers)
    composite, mask, moved = pasted.composite(IMAGES, numbers)
    expected = [IMAGES[numbers], composite, moved, mask, pasted.blobs[numbers]]
    expected += [tensor[numbers] for part in (data.ellipses, pasted.ellipses) for tensor in part.tensors()[:4]]
    assert len(batch) == len(expected) == 13 and all(map(torch.equal, batch, expected))
    assert all(torch.equal(part[1], part[2]) for part in batch)


def test_training_never_sees_the_held_out_images(pasted: PastedObjects) -> None:
    marked = IMAGES.clone()
    marked[:, 0, 0, 0] = torch.arange(COUNT).to(torch.uint8)
    data = data_of(pasted, marked)
    assert data.trained == COUNT // 2
    batches = data.batches(dataclasses.replace(TRAINING, batch_size=4, accumulate=2), seed=5)
    seen = [batches(step)[0][:, 0, 0, 0] for step in range(12)]
    assert all(len(each) == 8 for each in seen) and set(torch.cat(seen).tolist()) == set(range(COUNT // 2))
    assert torch.equal(batches(3)[0], batches(3)[0])
    assert data.held_out[0][:, 0, 0, 0].tolist() == list(range(COUNT // 2, COUNT))


def test_the_checksum_covers_all_that_is_trained_on(pasted: PastedObjects) -> None:
    data = data_of(pasted)
    known = {data.checksum(), data_of(pasted).checksum()}
    assert len(known) == 1
    images = IMAGES.clone()
    images[3, 0, 0, 0] += 1
    known.add(data_of(pasted, images).checksum())
    for name in ("source", "shift", "mask", "blobs"):
        tensor = getattr(pasted, name).clone()
        tensor[0] = ~tensor[0] if name == "blobs" else tensor[0] + 1
        known.add(data_of(dataclasses.replace(pasted, **{name: tensor})).checksum())
    ellipses = dataclasses.replace(pasted.ellipses, xs=pasted.ellipses.xs + 0.1)
    known.add(data_of(dataclasses.replace(pasted, ellipses=ellipses)).checksum())
    assert len(known) == 7
