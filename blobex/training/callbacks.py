"""Lightning callbacks of the training loop. Steps are batches; Lightning counts optimiser steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
from tqdm import tqdm

from blobex.config.training import Training
from blobex.core.errors import BlobexError
from blobex.tracking.tracker import Tracker
from blobex.training import checkpoints

LOG_EVERY = 50  # steps between two reports to the tracker


class EveryNSteps(lightning.Callback):
    """Calls `action(step, module)` after every `n` steps and after the last one; n = 0 means never."""

    def __init__(self, n: int, action: Callable[[int, Any], None]) -> None:
        self.n, self.action = n, action

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        last = trainer.global_step >= trainer.max_steps
        if self.n and trainer.is_global_zero and (pl_module.step % self.n == 0 or last):
            self.action(pl_module.step, pl_module)


class HalveLearningRate(lightning.Callback):
    """Halves the learning rate of every optimiser every `halve_every` steps; 0 means never."""

    def __init__(self, halve_every: int) -> None:
        self.halve_every = halve_every

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        factor = 0.5 ** (pl_module.step // self.halve_every) if self.halve_every else 1.0
        for group in (group for optimizer in trainer.optimizers for group in optimizer.param_groups):
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor


class Reporter(lightning.Callback):
    """Tracks the recorded scalars and updates the progress bar, which only a terminal shows.

    It also reports before each checkpoint, so that no report spans a resumption and a monitored loss is up to date.
    """

    def __init__(self, training: Training, start: int, tracker: Tracker, first: bool) -> None:
        self.training, self.tracker = training, tracker
        disable = None if first else True
        self.bar = tqdm(total=training.steps, initial=start, unit="step", disable=disable)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.bar.update()
        step = pl_module.step
        if step % LOG_EVERY and step % self.training.checkpoint.every_n_steps and step != self.training.steps:
            return
        pl_module.check_finite()
        means = pl_module.take_records()
        pl_module.score(means)
        self.bar.set_postfix({name: f"{value:.4g}" for name, value in means.items()}, refresh=False)
        self.tracker.log_metrics(means, step)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self.bar.close()


class CheckpointWriter(lightning.Callback):
    """Writes and prunes checkpoints.

    Lightning's ModelCheckpoint counts optimiser steps, and warns whenever optimisation is manual.
    """

    def __init__(self, training: Training, folder: Path, fingerprint: str, tracker: Tracker) -> None:
        self.training, self.folder, self.fingerprint, self.tracker = training, folder, fingerprint, tracker

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint[checkpoints.ENTRY] = {"fingerprint": self.fingerprint, "run_id": self.tracker.run_id}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step, options = pl_module.step, self.training.checkpoint
        if step % options.every_n_steps and step != self.training.steps:
            return
        measured_at, score = pl_module.scores.get(options.monitor, (None, None))
        score = score if measured_at == step else None  # a score of an earlier step is not this checkpoint's
        needed = trainer.is_global_zero and options.monitor != "step" and step == self.training.steps
        if score is None and needed:  # only the first process has the measures of images
            measured = ", ".join(["step", *pl_module.scores])
            raise BlobexError(
                f"checkpoint.monitor is {options.monitor}, which was not measured: choose from {measured}"
            )
        temporary = self.folder / ".checkpoint.part"
        try:
            trainer.save_checkpoint(temporary)
        except OSError:  # such as a full disk
            temporary.unlink(missing_ok=True)
            raise
        if trainer.is_global_zero:
            temporary.replace(self.folder / checkpoints.file_name(step, score))
            checkpoints.prune(self.folder, self.training)
