"""Training of the witnesses, on other scenes and with other seeds than all networks that they check."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from blobex.config.data import ImageSize
from blobex.config.training import Augmentation, WitnessParams
from blobex.datasets.datamodule import batch_indices, checksum
from blobex.datasets.images import to_float
from blobex.datasets.witness_data import WitnessSet
from blobex.networks.witness import DecisionWitness, ReadingWitness, Witness
from blobex.scenes.labels import SEMANTIC
from blobex.scenes.rules import ACTIONS
from blobex.training.parser import mirror, mirror_boxes, parser_batches, parser_measures
from blobex.training.parser_loss import category_weights, detection_losses, segmentation_losses
from blobex.training.step_module import Batch, StepModule, derive_seed


def witness_seed(run_seed: int, offset: int) -> int:
    """Return the seed of the training of a witness, which is not that of another network."""
    return derive_seed(run_seed, offset) % 2**31


def augment(images: Tensor, options: Augmentation, random: torch.Generator) -> Tensor:
    """Return images (N,3,H,W) uint8 as floats with random contrast, brightness and noise, which keep labels valid."""
    shape, device = (len(images), 1, 1, 1), images.device
    contrast, shift = (2 * torch.rand(shape, generator=random, device=device) - 1 for _ in range(2))
    deviation = options.noise * torch.rand(shape, generator=random, device=device)
    noise = torch.randn(images.shape, generator=random, device=device)
    changed = to_float(images) * (1 + options.contrast * contrast) + options.brightness * shift + deviation * noise
    return changed.clamp(-1, 1).contiguous(memory_format=torch.channels_last)


class DecisionWitnessModule(StepModule):
    """Trains a decision witness. Batches: images uint8 (N,3,height,width) and actions (N,R,4) by R rules."""

    def __init__(self, params: WitnessParams, size: ImageSize, data: WitnessSet, seed: int) -> None:
        options = params.decision
        config = {"channels": options.channels, "setup": repr(size), "augmentation": repr(params.augmentation)}
        super().__init__(options.training, seed, config | {"data": checksum(data.images, data.actions)})
        self.augmentation, self.learning_rate = params.augmentation, options.training.learning_rate
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = DecisionWitness(options.channels, data.actions.shape[1], size.height, size.width)
        self.model.to(memory_format=torch.channels_last)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.model.parameters(), lr=self.learning_rate, fused=self.fused)

    def training_step(self, batch: Batch, index: int) -> None:
        images, actions = batch
        self.descend(self.optimizers(), self.loss, (augment(images, self.augmentation, self.generator()), actions))

    def loss(self, chunk: Batch) -> Tensor:
        x, actions = chunk
        loss = F.binary_cross_entropy_with_logits(self.model(x), actions)
        self.record(decision_loss=loss)
        return loss


class ReadingWitnessModule(StepModule):
    """Trains a reading witness on batches of `reading_batches`."""

    weights: Tensor

    def __init__(self, params: WitnessParams, size: ImageSize, data: WitnessSet, seed: int) -> None:
        options = params.reading
        labels = checksum(*vars(data.detection).values(), *vars(data.segmentation).values())
        config = {"channels": options.channels, "setup": repr(size), "augmentation": repr(params.augmentation)}
        super().__init__(options.training, seed, config | {"data": labels})
        self.augmentation, self.learning_rate = params.augmentation, options.training.learning_rate
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = ReadingWitness(options.channels, size.height, size.width)
        self.model.to(memory_format=torch.channels_last)
        self.register_buffer("weights", category_weights(data.segmentation.semantic, len(SEMANTIC)))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.model.parameters(), lr=self.learning_rate, fused=self.fused)

    def training_step(self, batch: Batch, index: int) -> None:
        images, boxes, drivable, others, semantic, things, mirrored = batch
        random = self.generator()
        images, others = (
            augment(mirror(part, mirrored[: len(part)]), self.augmentation, random) for part in (images, others)
        )
        drivable, semantic, things = (mirror(maps, mirrored) for maps in (drivable, semantic, things))
        boxes = mirror_boxes(boxes, mirrored, images.shape[-1])
        self.descend(self.optimizers(), self.loss, (images, boxes, drivable, others, semantic, things))

    def loss(self, chunk: Batch) -> Tensor:
        images, boxes, drivable, others, semantic, things = chunk
        output = self.model(torch.cat([images, others]))
        losses = detection_losses(output[: len(boxes)], boxes, drivable)
        losses |= segmentation_losses(output[-len(semantic) :], semantic, things, self.weights)
        self.record(**losses)
        return torch.stack(list(losses.values())).sum()


def reading_batches(data: WitnessSet, batch_size: int, seed: int) -> Callable[[int], Batch]:
    """Return a function from a step to the parts of its batch, as `training.parser.parser_batches` does.

    If one image has all labels, the images of the second part are left out: they are those of the first.
    """
    detection, segmentation = data.detection, data.segmentation
    if detection.images is not segmentation.images:
        return parser_batches(detection, segmentation, batch_size, seed)

    def batches(step: int) -> Batch:
        indices = batch_indices(step, len(detection.images), batch_size, seed)
        mirrored = torch.rand(batch_size, generator=torch.Generator().manual_seed(derive_seed(seed, 2, step))) < 0.5
        boxed = (detection.images[indices], detection.boxes[indices], detection.drivable[indices])
        masked = (segmentation.semantic[indices], segmentation.things[indices])
        return (*boxed, segmentation.images[:0], *masked, mirrored)

    return batches


@torch.no_grad()
def witness_measures(witness: Witness, data: WitnessSet, batch_size: int) -> dict[str, float]:
    """Return `accuracy`, its lowest value and `accuracy_<rule>_<action>`, and the measures of `parser_measures`."""
    device = next(witness.decision.parameters()).device
    logits = [witness.decision(to_float(images.to(device))).cpu() for images in data.images.split(batch_size)]
    correct = ((torch.cat(logits) > 0) == (data.actions > 0.5)).double().mean(0)
    by_action = {
        f"accuracy_{rule}_{action}": value
        for rule, values in zip(witness.rules, correct.tolist(), strict=True)
        for action, value in zip(ACTIONS, values, strict=True)
    }
    measures = {"accuracy": correct.mean().item(), "accuracy_lowest": correct.min().item(), **by_action}
    return measures | parser_measures(witness.reading, data.detection, data.segmentation, batch_size)
