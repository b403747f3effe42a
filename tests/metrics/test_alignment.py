"""Taking blobs out, against scenes and pictures whose answer is plain."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor
from worlds.seen_scenes import reading_of

from blobex.layout.blobs import BlobLayout
from blobex.metrics.alignment import Removal, alignment, counted, found_again, outcomes, removals, without
from blobex.perception.reading import SceneReading
from blobex.scenes.sample import sample
from blobex.scenes.scene import Scene, Thing

BLUE = (28, 70, 165)
CAR, OTHER = Thing("car", "left", 10.0, BLUE), Thing("car", "right", 10.0, BLUE)
PERSON = Thing("pedestrian", "ego", 8.0, BLUE)


def scene(*things: Thing) -> Scene:
    return dataclasses.replace(
        sample(0), things=things, buildings=(), trees=(), light="none", stop_sign=False, time="day", weather="clear"
    )


def middles(reading: SceneReading) -> list[float]:
    """x of the middle of each counted object, as a share of the picture."""
    return [(each.box[0] + each.box[2]) / 2 / reading.size[1] for each in counted(reading)]


def test_recall_counts_what_is_found_again() -> None:
    both, one, none = (reading_of(scene(*things)) for things in ((CAR, PERSON), (CAR,), ()))
    assert sorted(found_again([both], [one])) == [0.0, 1.0]
    assert found_again([both], [one], "vehicle") == [1.0]
    assert found_again([both], [both]) == [1.0, 1.0]
    assert found_again([one, none], [none, both]) == [0.0]


def test_what_a_removal_did_is_told_apart_from_what_else_vanished() -> None:
    before = reading_of(scene(CAR, OTHER, PERSON))
    car = min(range(3), key=lambda number: middles(before)[number])  # the one on the left
    chosen = [Removal(0, car, 0)] * 3
    after = [reading_of(scene(*things)) for things in ((OTHER, PERSON), (CAR, OTHER, PERSON), (PERSON,))]
    found = outcomes([before], after, chosen)
    assert found["blob_removes_object"] == [1.0, 0.0, 1.0]
    assert found["others_stay"] == [1.0, 1.0, 0.5]


def painted_columns(layout: BlobLayout) -> Tensor:
    """Scores of blobs that each paint the columns around their middle, as far as their size says."""
    columns = (torch.arange(128) + 0.5) / 128
    near = (columns - layout.xs[:, :, None]).abs() < 0.1
    own = near * torch.sigmoid(layout.sizes[:, 1:, None])
    scores = torch.cat([(1 - own.sum(1, keepdim=True)).clamp(min=0), own], dim=1)
    return scores[:, :, None].expand(-1, -1, 64, -1)


def test_the_blob_that_paints_an_object_is_taken_out_and_the_others_are_left() -> None:
    reading = reading_of(scene(CAR, OTHER))
    xs = torch.tensor([[0.5, *middles(reading)]])
    style = torch.zeros(1, 4, 1)
    layout = BlobLayout(xs, torch.full((1, 3), 0.6), torch.zeros(1, 3, 4), torch.full((1, 4), 5.0), style, style)
    chosen = removals([reading], painted_columns(layout))
    assert [each.blob for each in chosen] == [1, 2]
    edited = without(layout, chosen)
    opacity = torch.sigmoid(edited.sizes[:, 1:])
    assert opacity[0, 1] < 1e-9 and opacity[1, 2] < 1e-9
    assert torch.equal(edited.sizes[0, [0, 1, 3]], layout.sizes[0, [0, 1, 3]])
    assert layout.sizes.unique().tolist() == [5.0]


@pytest.mark.parametrize(("linked", "removed", "stay"), [(True, 1.0, 1.0), (False, 0.0, 1.0)])
def test_alignment_of_a_world_where_blobs_are_cars_or_are_not(linked: bool, removed: float, stay: float) -> None:
    """The rendering is the sizes themselves; its reader sees a car for each blob that is there, or always both."""
    whole = reading_of(scene(CAR, OTHER))
    xs, style = torch.tensor([middles(whole)]), torch.zeros(1, 3, 1)
    layout = BlobLayout(xs, torch.full((1, 2), 0.6), torch.zeros(1, 2, 4), torch.full((1, 3), 5.0), style, style)
    parts = [dataclasses.replace(whole, objects=(each,)) for each in counted(whole)]

    def read(pictures: Tensor) -> list[SceneReading]:
        seen = []
        for sizes in pictures[:, 0, 0]:
            there = [part.objects[0] for part, size in zip(parts, sizes[1:], strict=True) if size > 0 or not linked]
            seen.append(dataclasses.replace(whole, objects=tuple(there)))
        return seen

    def render(some: BlobLayout) -> Tensor:
        return some.sizes[:, None, None].expand(-1, 3, 1, -1)

    found = alignment(layout, render(layout), painted_columns, render, read, batch_size=1)
    assert found == {"blob_removes_object": [removed] * 2, "others_stay": [stay] * 2}
