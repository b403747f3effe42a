"""The parser: targets, losses and measures by hand, decoding of targets, and training on a tiny world."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from blobex.config.data import ImageSize, Run
from blobex.config.training import Checkpoints, ParserParams, Resume, Training
from blobex.core.errors import BlobexError
from blobex.datasets.datamodule import NO_BOX, DetectionSet, SegmentationSet
from blobex.networks import weights
from blobex.networks.parser import STRIDE, Detections, Parser, ParserOutput, detections, load_parser, panoptic
from blobex.scenes.labels import DETECTION, SEMANTIC
from blobex.tracking.tracker import NullTracker
from blobex.training.fit import fit
from blobex.training.parser import (
    LabelledBoxes,
    ParserModule,
    average_precision,
    confusion,
    mean_iou,
    mirror,
    mirror_boxes,
    parser_batches,
    parser_measures,
)
from blobex.training.parser_loss import (
    box_targets,
    category_weights,
    detection_losses,
    focal_loss,
    segmentation_losses,
    thing_targets,
)

CAR, ROAD, SKY = SEMANTIC.index("car"), SEMANTIC.index("road"), SEMANTIC.index("sky")
BOXES = torch.tensor([[[2.0, 3, 2, 13, 8], [0, 20, 4, 24, 15]], [[8, 7, 1, 10, 9], [NO_BOX, 0, 0, 0, 0]]])


def perfect(boxes: Tensor, semantic: Tensor, things: Tensor) -> ParserOutput:
    """Return the output of a perfect parser."""
    count, height, width = semantic.shape
    targets = box_targets(boxes, height, width)
    offset, size = (torch.zeros(count, 2, height // STRIDE, width // STRIDE) for _ in range(2))
    offset[targets.image, :, targets.row, targets.column] = targets.offset
    size[targets.image, :, targets.row, targets.column] = targets.size
    heat, shifts = thing_targets(things)
    return ParserOutput(
        heat=targets.heat.clamp(1e-4, 1 - 1e-4).logit(),
        offset=offset,
        size=size,
        semantic=20.0 * torch.nn.functional.one_hot(semantic.long(), len(SEMANTIC)).permute(0, 3, 1, 2),
        centres=heat.clamp(1e-4, 1 - 1e-4).logit(),
        shifts=shifts,
        drivable=torch.zeros(count, 3, height, width),
    )


def two_cars() -> tuple[Tensor, Tensor]:
    """Semantic and thing maps: two cars that touch, on a road under the sky."""
    semantic, things = (torch.zeros(2, 16, 32, dtype=torch.uint8) for _ in range(2))
    semantic[:, :6], semantic[:, 6:] = SKY, ROAD
    for number, (left, right) in enumerate(((4, 11), (11, 20)), 1):
        semantic[0, 6:11, left:right] = CAR
        things[0, 6:11, left:right] = number
    return semantic, things


def test_detections_invert_box_targets() -> None:
    semantic, things = two_cars()
    decoded = detections(perfect(BOXES, semantic, things), threshold=0.5)
    for boxes, image in zip(BOXES, decoded, strict=True):
        truth = boxes[boxes[:, 0] >= 0]
        rows = torch.cat([image.categories[:, None].float(), image.boxes], 1)
        rows = rows[rows[:, 0].argsort()]
        torch.testing.assert_close(rows, truth[truth[:, 0].argsort()], atol=1e-4, rtol=0)


def test_panoptic_inverts_thing_targets() -> None:
    semantic, things = two_cars()
    noisy = semantic.clone()
    noisy[0, 8, 6] = SEMANTIC.index("bus")  # outvoted by the rest of its thing
    category, numbers = panoptic(perfect(BOXES, noisy, things))
    assert torch.equal(category, semantic.long())
    assert (numbers[1] == 0).all()
    for number in (1, 2):
        decoded = numbers[0][things[0] == number].unique()
        assert len(decoded) == 1 and torch.equal(numbers[0] == decoded, things[0] == number)


def test_perfect_output_has_a_small_loss() -> None:
    semantic, things = two_cars()
    good, drivable = perfect(BOXES, semantic, things), torch.zeros(2, 16, 32, dtype=torch.uint8)
    ignorant = ParserOutput(**{name: torch.zeros_like(tensor) for name, tensor in vars(good).items()})
    even = torch.ones(len(SEMANTIC))
    low = detection_losses(good, BOXES, drivable) | segmentation_losses(good, semantic, things, even)
    high = detection_losses(ignorant, BOXES, drivable) | segmentation_losses(ignorant, semantic, things, even)
    assert low["offset_loss"] == low["size_loss"] == low["shift_loss"] == 0
    assert all(low[name] < 0.2 * high[name] for name in low if name != "drivable_loss")
    assert low["drivable_loss"].item() == pytest.approx(torch.tensor(3.0).log().item())


def test_focal_loss_by_hand() -> None:
    logits, heat = torch.zeros(1, 1, 1, 3), torch.tensor([[[[1.0, 0.5, 0.0]]]])
    # -log(1/2) * (1/2)^2 * (1 + (1-0.5)^4 + 1), one peak
    assert focal_loss(logits, heat).item() == pytest.approx(0.25 * 0.6931472 * (2 + 0.0625))


def test_thing_shifts_point_to_the_centroid() -> None:
    _, things = two_cars()
    heat, shifts = thing_targets(things)
    assert shifts[0, :, 6, 4].tolist() == [3.0, 2.0]  # the first car's centroid is (7, 8)
    assert heat[0, 0, 8, 7] == 1 and heat[1].max() == 0


def test_unknown_pixels_have_no_gradient() -> None:
    semantic, things = two_cars()
    output = perfect(BOXES, semantic, things)
    semantic[0, :, 16:] = 255
    logits = torch.zeros_like(output.semantic, requires_grad=True)
    part = ParserOutput(**{**vars(output), "semantic": logits})
    segmentation_losses(part, semantic, things, torch.ones(len(SEMANTIC)))["semantic_loss"].backward()
    assert logits.grad is not None
    assert (logits.grad[0, :, :, 16:] == 0).all() and (logits.grad[0, :, :, :16] != 0).any()


def test_category_weights() -> None:
    semantic, _ = two_cars()
    values = category_weights(semantic, len(SEMANTIC))
    assert values[semantic.long()].mean().item() == pytest.approx(1, abs=1e-5)
    share = (semantic == CAR).float().mean() / (semantic == ROAD).float().mean()
    assert (values[ROAD] / values[CAR]).item() == pytest.approx(share.sqrt().item(), rel=1e-5)
    assert values[SEMANTIC.index("train")] == 0


def test_mirrored_boxes_are_those_of_the_mirrored_image() -> None:
    def painted(boxes: Tensor) -> Tensor:
        canvas = torch.zeros(len(boxes), 16, 32)
        for image, rows in zip(canvas, boxes, strict=True):
            for _, x1, y1, x2, y2 in rows[rows[:, 0] != NO_BOX].int().tolist():
                image[y1:y2, x1:x2] += 1
        return canvas

    marks = torch.tensor([True, False])
    assert torch.equal(painted(mirror_boxes(BOXES, marks, 32)), mirror(painted(BOXES), marks))


def test_mean_iou_by_hand() -> None:
    labels, predicted = torch.tensor([0, 0, 1, 1, 1, 255]), torch.tensor([0, 1, 1, 1, 2, 2])
    counts = confusion(predicted, labels, 4)
    assert counts.sum() == 5
    # category 0: 1 of 2; category 1: 2 of 4; 2 and 3 are no labels
    assert mean_iou(counts) == pytest.approx(0.5)


def detected(rows: list[tuple[float, int, list[float]]]) -> Detections:
    return Detections(
        torch.tensor([row[2] for row in rows]).reshape(-1, 4),
        torch.tensor([row[0] for row in rows]),
        torch.tensor([row[1] for row in rows], dtype=torch.int64),
    )


def test_average_precision_by_hand() -> None:
    box, other = [0.0, 0, 10, 10], [20.0, 0, 30, 10]
    truth = [LabelledBoxes(torch.tensor([box, other]), torch.tensor([2, 2]))]
    assert average_precision([detected([(0.9, 2, box), (0.8, 2, other)])], truth) == 1
    assert average_precision([detected([(0.9, 2, box)])], truth) == pytest.approx(51 / 101)  # recalls 0 to 0.5
    assert average_precision([detected([])], truth) == 0
    assert average_precision([detected([(0.9, 3, box)])], truth) == 0  # another category
    # a wrong box first: precision 1/2 up to recall 0.5; then 2/3, which covers the lower recalls too
    wrong = (0.95, 2, [50.0, 0, 60, 10])
    assert average_precision([detected([wrong, (0.9, 2, box), (0.8, 2, other)])], truth) == pytest.approx(2 / 3)
    # the same object twice counts once; the second is wrong but comes last
    twice = detected([(0.9, 2, box), (0.8, 2, other), (0.7, 2, box)])
    assert average_precision([twice], truth) == 1
    shifted = detected([(0.9, 2, [0.0, 0, 10, 19]), (0.8, 2, [20.0, 0, 30, 21])])  # IoU 10/19 and 10/21
    assert average_precision([shifted], truth) == pytest.approx(51 / 101)
    tiny = LabelledBoxes(torch.tensor([box, [40.0, 0, 42, 2]]), torch.tensor([2, 2]))
    assert average_precision([detected([(0.95, 2, [40.0, 0, 42, 2]), (0.9, 2, box)])], [tiny], min_area=8) == 1


def test_features_and_sizes() -> None:
    torch.manual_seed(0)
    parser = Parser([8, 12, 16], 16, 32).eval()
    x = torch.rand(2, 3, 16, 32, requires_grad=True)
    assert [tuple(level.shape) for level in parser.features(x)] == [(2, 8, 8, 16), (2, 12, 4, 8), (2, 16, 2, 4)]
    assert parser.pooled_features(x).shape == (2, 36)
    output = parser(x)
    assert output.heat.shape == (2, len(DETECTION), 8, 16) and output.semantic.shape == (2, 19, 16, 32)
    assert output.drivable.shape == (2, 3, 16, 32) and output.shifts.shape == (2, 2, 16, 32)
    parser.pooled_features(x).sum().backward()
    assert x.grad is not None and (x.grad != 0).any()
    with pytest.raises(BlobexError, match="not divisible by 16"):
        Parser([8, 8, 8, 8], 24, 32)


def test_saved_parser_is_the_same_and_frozen(tmp_path: Path) -> None:
    torch.manual_seed(0)
    parser = Parser([4, 6], 16, 32).eval()
    weights.save(tmp_path, "parser", {"setup": "rect", **parser.config}, parser)
    loaded, x = load_parser(tmp_path), torch.rand(2, 3, 16, 32)
    torch.testing.assert_close(loaded(x).semantic, parser(x).semantic)
    assert not loaded.training and not any(parameter.requires_grad for parameter in loaded.parameters())


def world(count: int, seed: int) -> tuple[DetectionSet, SegmentationSet]:
    """Blue sky, grey road, and a red car somewhere on it."""
    random = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 30, (count, 3, 16, 32), dtype=torch.uint8, generator=random)
    semantic, things = (torch.zeros(count, 16, 32, dtype=torch.uint8) for _ in range(2))
    images[:, 2, :6] += 200
    images[:, :, 6:] += 80
    semantic[:, :6], semantic[:, 6:] = SKY, ROAD
    boxes = torch.zeros(count, 1, 5)
    for i in range(count):
        left, top = (int(torch.randint(low, high, (1,), generator=random)) for low, high in ((0, 24), (5, 11)))
        images[i, :, top : top + 5, left : left + 8] = torch.tensor([220, 20, 20], dtype=torch.uint8)[:, None, None]
        semantic[i, top : top + 5, left : left + 8], things[i, top : top + 5, left : left + 8] = CAR, 1
        boxes[i, 0] = torch.tensor([2, left, top, left + 8, top + 5])
    drivable = torch.where(semantic == ROAD, 0, 2).to(torch.uint8)
    return DetectionSet(images, boxes, drivable), SegmentationSet(images, semantic, things)


def test_training_learns_a_tiny_world(tmp_path: Path) -> None:
    training = Training(
        steps=70,
        batch_size=8,
        accumulate=1,
        learning_rate=0.005,
        halve_every=30,
        checkpoint=Checkpoints(1000, 1, "step", "max"),
        resume=Resume("none", None, None),
    )
    detection, segmentation = world(48, seed=0)
    module = ParserModule(ParserParams([12, 16, 24], training), ImageSize(16, 2), detection, segmentation, seed=0)
    run = Run(0, "cpu", 1, "float32", "pictures", tracking_uri="none", artifacts=None, s3_endpoint=None)
    fit(module, parser_batches(detection, segmentation, 8, 0), training, run, tmp_path, NullTracker())
    measures = parser_measures(module.parser.eval(), *world(16, seed=1), batch_size=8)
    assert all(0.8 < value <= 1 for value in measures.values()), measures
    assert set(measures) == {"semantic_iou", "drivable_iou", "box_ap50", "panoptic_quality"}


def test_batches_depend_on_the_step_only() -> None:
    detection, segmentation = world(10, seed=0)
    batches = parser_batches(detection, segmentation, 4, seed=3)
    first, again, other = batches(5), batches(5), batches(6)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    images, boxes = first[0], first[1]
    for image, (row,) in zip(images, boxes.tolist(), strict=True):
        left, top = int(row[1]), int(row[2])
        assert image[0, top, left] == 220
