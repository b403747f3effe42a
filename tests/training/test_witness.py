"""Training of the witnesses on tiny worlds; the losses of both kinds of data agree."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor
from worlds.toy_training import RUN, TRAINING, Recorder, vary

from blobex.config.data import ImageSize
from blobex.config.training import Augmentation, DecisionWitnessParams, ReadingWitnessParams, WitnessParams
from blobex.datasets.datamodule import DetectionSet, SegmentationSet
from blobex.datasets.images import to_float
from blobex.datasets.witness_data import WitnessSet
from blobex.networks.witness import Witness
from blobex.scenes.labels import SEMANTIC
from blobex.training.fit import fit
from blobex.training.step_module import sample_batches
from blobex.training.witness import (
    DecisionWitnessModule,
    ReadingWitnessModule,
    augment,
    reading_batches,
    witness_measures,
    witness_seed,
)

SIZE = ImageSize(16, 2)
ROAD, SKY, CAR = (SEMANTIC.index(name) for name in ("road", "sky", "car"))
OPTIONS = vary(TRAINING, steps=40, batch_size=12, learning_rate=0.01, halve_every=15)
NONE = Augmentation(noise=0.0, brightness=0.0, contrast=0.0)
PARAMS = WitnessParams(
    seed_offset=1,
    scenes=1,
    augmentation=Augmentation(noise=0.05, brightness=0.05, contrast=0.1),
    decision=DecisionWitnessParams([8, 16], OPTIONS),
    reading=ReadingWitnessParams(16, OPTIONS),
)


def world(count: int, seed: int) -> WitnessSet:
    """Blue sky, grey road and a red car; one rule stops for a car on the left, the other on the right."""
    random = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 30, (count, 3, 16, 32), dtype=torch.uint8, generator=random)
    semantic, things = (torch.zeros(count, 16, 32, dtype=torch.uint8) for _ in range(2))
    images[:, 2, :6] += 200
    images[:, :, 6:] += 80
    semantic[:, :6], semantic[:, 6:] = SKY, ROAD
    boxes, actions = torch.zeros(count, 1, 5), torch.zeros(count, 2, 4)
    for i in range(count):
        on_left = i % 2
        left, top = int(torch.randint(0, 8, (1,), generator=random)) + 16 * (1 - on_left), 7
        images[i, :, top : top + 5, left : left + 8] = torch.tensor([220, 20, 20], dtype=torch.uint8)[:, None, None]
        semantic[i, top : top + 5, left : left + 8], things[i, top : top + 5, left : left + 8] = CAR, 1
        boxes[i, 0] = torch.tensor([2, left, top, left + 8, top + 5])
        actions[i, 0], actions[i, 1] = (
            torch.tensor([1.0 - on_left, on_left, 1, 0]),
            torch.tensor([on_left, 1.0 - on_left, 1, 0]),
        )
    drivable = torch.where(semantic == ROAD, 0, 2).to(torch.uint8)
    return WitnessSet(images, actions, DetectionSet(images, boxes, drivable), SegmentationSet(images, semantic, things))


def train(module, batches, folder: Path):
    fit(module, batches, OPTIONS, RUN, folder, Recorder())
    return module.model.eval()


def test_both_witnesses_learn_a_tiny_world(tmp_path: Path) -> None:
    data = world(64, seed=0)
    decision = DecisionWitnessModule(PARAMS, SIZE, data, seed=0)
    reading = ReadingWitnessModule(PARAMS, SIZE, data, seed=0)
    rules = ("left", "right")
    before = witness_measures(Witness(decision.model, reading.model, rules), world(16, seed=1), 8)
    batches = sample_batches((data.images, data.actions), 64, OPTIONS, 0)
    train(decision, batches, tmp_path / "decision")
    train(reading, reading_batches(data, 12, 0), tmp_path / "reading")
    after = witness_measures(Witness(decision.model, reading.model, rules), world(16, seed=1), 8)
    assert before["accuracy_lowest"] < 0.8 and after["accuracy_lowest"] == 1, after
    assert after["semantic_iou"] > 0.7 > before["semantic_iou"] and after["box_ap50"] > 0.5
    actions = {f"accuracy_{rule}_{action}" for rule in rules for action in ("forward", "stop", "left", "right")}
    others = {"accuracy", "accuracy_lowest", "semantic_iou", "drivable_iou", "box_ap50", "panoptic_quality"}
    assert set(after) == actions | others


def test_loss_is_the_same_whether_labels_share_their_images() -> None:
    """A data set with boxes on some images and maps on others, here copies, has the same loss."""
    data = world(8, seed=0)
    apart = dataclasses.replace(data, segmentation=dataclasses.replace(data.segmentation, images=data.images.clone()))
    params = dataclasses.replace(PARAMS, augmentation=NONE)
    module = ReadingWitnessModule(params, SIZE, data, seed=0)
    together = reading_batches(data, 8, 0)(0)
    assert len(together[3]) == 0 and len(reading_batches(apart, 8, 0)(0)[3]) == 8
    x, (images, boxes, drivable, _, semantic, things, _) = to_float(together[0]), together
    one = module.loss((x, boxes, drivable, x[:0], semantic, things))
    two = module.loss((x, boxes, drivable, x.clone(), semantic, things))
    torch.testing.assert_close(one, two)
    assert images.shape == (8, 3, 16, 32)


def test_labels_are_those_of_their_images() -> None:
    data = world(10, seed=0)
    images, boxes, _, _, semantic, _, mirrored = reading_batches(data, 4, seed=3)(5)
    for image, (row,), labels in zip(images, boxes.tolist(), semantic, strict=True):
        left, top = int(row[1]), int(row[2])
        assert image[0, top, left] == 220 and labels[top, left] == CAR
    assert mirrored.dtype == torch.bool and len(mirrored) == 4


def test_augmentation_is_mild_and_each_images_own() -> None:
    grey = torch.full((200, 3, 8, 8), 200, dtype=torch.uint8)
    options = Augmentation(noise=0.1, brightness=0.2, contrast=0.0)

    def changed(values: Augmentation, seed: int = 0) -> Tensor:
        return augment(grey, values, torch.Generator().manual_seed(seed))

    assert torch.equal(changed(NONE), to_float(grey).contiguous())
    assert torch.equal(changed(options), changed(options)) and not torch.equal(changed(options), changed(options, 1))
    shifts = (changed(dataclasses.replace(options, noise=0.0)) - to_float(grey)).mean((1, 2, 3))
    assert shifts.abs().max() <= 0.2 + 1e-6 and shifts.std().item() == pytest.approx(0.2 / 3**0.5, rel=0.15)
    deviations = changed(dataclasses.replace(options, brightness=0.0)).std((1, 2, 3))
    assert deviations.max() < 0.13 and deviations.mean().item() == pytest.approx(0.05, rel=0.15)
    stretched = changed(dataclasses.replace(NONE, contrast=0.3))
    ratio = stretched[:, 0, 0, 0] / to_float(grey)[0, 0, 0, 0]
    assert 0.7 <= ratio.min() < 0.8 and 1.2 < ratio.max() <= 1.3


def test_other_seeds_and_data_are_another_training() -> None:
    assert witness_seed(0, 1000) not in (0, 1000, witness_seed(0, 1001), witness_seed(1, 1000))
    for kind in (DecisionWitnessModule, ReadingWitnessModule):
        configs = [kind(PARAMS, SIZE, world(4, seed), 0).config for seed in (0, 1)]
        plain = kind(dataclasses.replace(PARAMS, augmentation=NONE), SIZE, world(4, 0), 0).config
        assert configs[0] != configs[1] and configs[0] != plain
