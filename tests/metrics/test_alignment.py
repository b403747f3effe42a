"""Removal of blobs from scenes whose objects are known."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor
from worlds.true_readings import reading_of

from blobex.layout.blobs import BlobLayout
from blobex.metrics.alignment import (
    Removal,
    alignment,
    counted_objects,
    object_recall,
    outcomes,
    removals,
    remove_blobs,
)
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
    """x of the middle of each counted object, as a share of the image."""
    return [(each.box[0] + each.box[2]) / 2 / reading.size[1] for each in counted_objects(reading)]


def test_object_recall() -> None:
    both, one, none = (reading_of(scene(*things)) for things in ((CAR, PERSON), (CAR,), ()))
    assert sorted(object_recall([both], [one]).values) == [0.0, 1.0]
    assert object_recall([both], [one], "vehicle").values == [1.0]
    assert object_recall([both], [both]).values == [1.0, 1.0]
    assert object_recall([one, none], [none, both]).values == [0.0]
    assert object_recall([one, both], [one, both]).images == ["0", "1", "1"]


def test_outcomes_separate_the_object_from_the_others() -> None:
    before = reading_of(scene(CAR, OTHER, PERSON))
    car = min(range(3), key=lambda number: middles(before)[number])  # the one on the left
    chosen = [Removal(0, car, 0)] * 3
    after = [reading_of(scene(*things)) for things in ((OTHER, PERSON), (CAR, OTHER, PERSON), (PERSON,))]
    result = outcomes([before], after, chosen)
    assert result["blob_removes_object"].values == [1.0, 0.0, 1.0]
    assert result["others_stay"].values == [1.0, 1.0, 0.5]
    assert all(measure.images == ["0"] * 3 for measure in result.values())


def painted_columns(layout: BlobLayout) -> Tensor:
    """Score maps of blobs that paint the columns around their centres, with an opacity by their size."""
    columns = (torch.arange(128) + 0.5) / 128
    near = (columns - layout.xs[:, :, None]).abs() < 0.1
    own = near * torch.sigmoid(layout.sizes[:, 1:, None])
    scores = torch.cat([(1 - own.sum(1, keepdim=True)).clamp(min=0), own], dim=1)
    return scores[:, :, None].expand(-1, -1, 64, -1)


def test_only_the_blob_that_paints_an_object_is_removed() -> None:
    reading = reading_of(scene(CAR, OTHER))
    xs = torch.tensor([[0.5, *middles(reading)]])
    style = torch.zeros(1, 4, 1)
    layout = BlobLayout(xs, torch.full((1, 3), 0.6), torch.zeros(1, 3, 4), torch.full((1, 4), 5.0), style, style)
    chosen = removals([reading], painted_columns(layout))
    assert [each.blob for each in chosen] == [1, 2]
    edited = remove_blobs(layout, chosen)
    opacity = torch.sigmoid(edited.sizes[:, 1:])
    assert opacity[0, 1] < 1e-9 and opacity[1, 2] < 1e-9
    assert torch.equal(edited.sizes[0, [0, 1, 3]], layout.sizes[0, [0, 1, 3]])
    assert layout.sizes.unique().tolist() == [5.0]


@pytest.mark.parametrize(("linked", "removed", "stay"), [(True, 1.0, 1.0), (False, 0.0, 1.0)])
def test_alignment_where_blobs_are_cars_and_where_they_are_not(linked: bool, removed: float, stay: float) -> None:
    """The rendering holds the sizes; its reading has a car for each visible blob, or always both cars."""
    whole = reading_of(scene(CAR, OTHER))
    xs, style = torch.tensor([middles(whole)]), torch.zeros(1, 3, 1)
    layout = BlobLayout(xs, torch.full((1, 2), 0.6), torch.zeros(1, 2, 4), torch.full((1, 3), 5.0), style, style)
    parts = [dataclasses.replace(whole, objects=(each,)) for each in counted_objects(whole)]

    def read(images: Tensor) -> list[SceneReading]:
        seen = []
        for sizes in images[:, 0, 0]:
            there = [part.objects[0] for part, size in zip(parts, sizes[1:], strict=True) if size > 0 or not linked]
            seen.append(dataclasses.replace(whole, objects=tuple(there)))
        return seen

    def render(some: BlobLayout) -> Tensor:
        return some.sizes[:, None, None].expand(-1, 3, 1, -1)

    result = alignment(layout, render(layout), painted_columns, render, read, batch_size=1)
    values = {name: measure.values for name, measure in result.items()}
    assert values == {"blob_removes_object": [removed] * 2, "others_stay": [stay] * 2}
