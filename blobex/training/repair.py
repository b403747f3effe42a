"""Fine-tuning of a model of decisions on corrected labels, mixed with the images that it was trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blobex.config.data import Run
from blobex.config.repair import Repair
from blobex.core.errors import BlobexError
from blobex.datasets.datamodule import DecisionSet, batch_indices, checksum
from blobex.tracking.tracker import Tracker
from blobex.training.fit import fit
from blobex.training.step_module import Batch, derive_seed
from blobex.training.supervised import SupervisedModule


@dataclass(frozen=True)
class Corrections:
    """Images and what a model should say about them, as a rule or a person says."""

    images: Tensor  # N,3,H,W uint8
    labels: Tensor  # N,A float32: 1, 0, or NaN where nothing is known

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels):
            raise BlobexError(f"there are {len(self.images)} images and {len(self.labels)} labels: give one for each")

    def __len__(self) -> int:
        return len(self.images)

    def wrong(self, decisions: Tensor) -> Tensor:
        """Return which known labels decisions, bool (N,A), contradict: bool (N,A)."""
        return ~self.labels.isnan() & (decisions != (self.labels > 0.5))


class RepairModule(SupervisedModule):
    """Fine-tunes a model. Batches: images uint8 (N,3,height,width) and labels (N,A), NaN where unknown.

    Batch normalisation keeps the statistics of the training images: those of a few corrected images are others.
    """

    measure = "repair_loss"

    @staticmethod
    def objective(logits: Tensor, labels: Tensor) -> Tensor:
        return known_loss(logits, labels)

    def __init__(self, model: nn.Module, options: Repair, corrections: Corrections, seed: int) -> None:
        config = {"corrections": checksum(corrections.images, corrections.labels), "replay": options.replay}
        start = checksum(*model.state_dict().values())
        super().__init__(options.training, seed, config | {"start": start}, lambda: model.requires_grad_(True))

    def train(self, mode: bool = True) -> RepairModule:
        super().train(mode)
        for part in self.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.eval()
        return self


def known_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean binary cross-entropy over the labels that are known, not NaN; shapes (N,A)."""
    known = ~labels.isnan()
    return F.binary_cross_entropy_with_logits(logits[known], labels[known])


def repair_batches(
    corrections: Corrections, training_set: DecisionSet | None, options: Repair, seed: int
) -> Callable[[int], Batch]:
    """Return the function from a step to its batch, of which the share `options.replay` are training images."""
    training = options.training
    size = training.batch_size * training.accumulate
    replayed = round(size * options.replay) if training_set is not None else 0
    if replayed == size:
        raise BlobexError(f"a batch of {size} has no place for a corrected image: lower repair.replay")
    other = derive_seed(seed, 1)

    def batch(step: int) -> Batch:
        parts = [(corrections.images, corrections.labels, batch_indices(step, len(corrections), size - replayed, seed))]
        if training_set is not None and replayed:
            indices = batch_indices(step, len(training_set.images), replayed, other)
            parts.append((training_set.images, training_set.actions, indices))
        images = torch.cat([images[indices] for images, _, indices in parts])
        labels = torch.cat([labels[indices] for _, labels, indices in parts])
        order = batch_indices(step, size, size, derive_seed(seed, 2, step))  # mixed, for accumulation and devices
        return images[order], labels[order]

    return batch


def fine_tune(
    model: nn.Module,
    corrections: Corrections,
    training_set: DecisionSet | None,
    options: Repair,
    run: Run,
    folder: Path,
    tracker: Tracker,
) -> nn.Module:
    """Fine-tune a model in place, and return it in evaluation mode without gradients.

    This is the step of counterfactual knowledge distillation that follows the feedback (Bender et al., "Mitigating
    Clever Hans Strategies in Image Classifiers through Generating Counterexamples", arXiv:2510.17524). The result
    depends on the arguments alone; a stopped run resumes from the checkpoints in `folder`.

    Args:
        model: Network of images (N,3,H,W) in [-1,1] to logits (N,A).
        corrections: Images with the labels to learn.
        training_set: Images that the model was trained on, and their labels; None: none are mixed in.
        options: Section `repair` of the parameters: steps, batch size, share of training images and so on.
        run: Seed and device.
        folder: Folder of the checkpoints.
        tracker: Record of the losses.

    Raises:
        BlobexError: There is nothing to learn: no image, or no label that is known.
    """
    if not len(corrections) or bool(corrections.labels.isnan().all()):
        raise BlobexError("a repair needs labels: explain images of the model and label the counterfactuals first")
    module = RepairModule(model, options, corrections, run.seed)
    batches = repair_batches(corrections, training_set, options, run.seed)
    fit(module, batches, options.training, run, folder, tracker)
    return module.model.eval().requires_grad_(False)
