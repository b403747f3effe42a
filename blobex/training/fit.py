"""Training loop of every network and its callbacks: an exact number of steps, resumable to the bit.

The data and the random numbers of a step are functions of the step alone, so a run that was stopped and resumed ends
with the same bytes as an uninterrupted one. Steps are batches; Lightning counts optimiser steps.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException
from tqdm import tqdm

from blobex.config.data import Run
from blobex.config.training import Training
from blobex.core.device import is_first_process, keep_freed_memory, resolve_device, resolve_precision
from blobex.core.errors import BlobexError
from blobex.tracking.tracker import NullTracker, Tracker
from blobex.training import checkpoints
from blobex.training.step_module import Batch, StepModule, split_batch

LOG_EVERY = 50  # steps between two reports to the tracker
_DISTRIBUTED: list[Path] = []  # folders trained in several processes: Lightning starts processes once per command


def fit(
    module: StepModule,
    batches: Callable[[int], Batch],
    training: Training,
    run: Run,
    folder: Path,
    tracker: Tracker,
    callbacks: Sequence[lightning.Callback] = (),
) -> None:
    """Train a module as a whole up to `training.steps` batches of batch_size * accumulate samples.

    On several devices the command runs once per device, each process trains on its share of the batch, and all but the
    first process end here (SystemExit 0). Batch statistics are those of each share; the reported losses are those of
    the first process. On one device the process trains alone, even under torchrun. `callbacks` run before the report
    and the checkpoint of a step.

    Raises:
        BlobexError: if the batch does not divide among the devices, the checkpoint to resume is missing, or a recorded
            scalar is not finite.
    """
    if training.batch_size % run.devices:
        raise BlobexError(f"a batch of {training.batch_size} does not divide among {run.devices} devices: change one")
    if run.devices > 1 and _DISTRIBUTED:
        raise BlobexError("on several devices one command trains one network: train the second with another command")
    mark = fingerprint(module, training)
    checkpoint = checkpoints.choose_checkpoint(training, folder, mark)
    start = checkpoint.step if checkpoint else 0
    first = run.devices == 1 or is_first_process()
    if first:
        folder.mkdir(parents=True, exist_ok=True)
        checkpoints.move_stale(folder, after=start)
        checkpoints.mark_finished(folder, False)
    else:
        tracker = NullTracker()
    reporter, writer = Reporter(training, start, tracker, first), CheckpointWriter(training, folder, mark, tracker)
    module.train()
    keep_freed_memory()
    with _quiet():
        trainer = _trainer(
            module, training, run, [HalveLearningRate(training.halve_every), *callbacks, reporter, writer]
        )
        data = _Steps(batches, start, training.steps, run.devices)
        with _interruptible():
            trainer.fit(module, data, ckpt_path=str(checkpoint.path) if checkpoint else None, weights_only=True)
    if run.devices > 1:
        _DISTRIBUTED.append(folder)
        torch.distributed.destroy_process_group()  # else measures would wait for the other processes
    if not first:
        raise SystemExit(0)


def resumed_run_id(module: StepModule, training: Training, folder: Path) -> str | None:
    """Return the tracker run to continue: `training.resume.run_id`, or that of the checkpoint to resume, or None."""
    checkpoint = checkpoints.choose_checkpoint(training, folder, fingerprint(module, training))
    if training.resume.run_id is not None or checkpoint is None:
        return training.resume.run_id
    run_id: str | None = checkpoints.read_entry(checkpoint)["run_id"]
    return run_id


def fingerprint(module: StepModule, training: Training) -> str:
    """Return a hash of all that a checkpoint must agree with to be resumed, which steps and file keeping need not."""
    options = dataclasses.asdict(training)
    for name in ("steps", "checkpoint", "resume"):
        del options[name]
    shapes = {name: list(tensor.shape) for name, tensor in module.state_dict().items()}
    content = [type(module).__name__, module.seed, module.config, options, shapes]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


class _Steps:
    """This process's share of the batches of the steps from `start` to `stop`."""

    def __init__(self, batches: Callable[[int], Batch], start: int, stop: int, devices: int) -> None:
        self.batches, self.start, self.stop, self.devices = batches, start, stop, devices

    def __iter__(self) -> Iterator[Batch]:
        rank = int(os.environ.get("LOCAL_RANK", "0")) if self.devices > 1 else 0
        return (split_batch(self.batches(step), rank, self.devices) for step in range(self.start, self.stop))


def _trainer(
    module: StepModule, training: Training, run: Run, callbacks: list[lightning.Callback]
) -> lightning.Trainer:
    device = resolve_device(run.device)
    return lightning.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=run.devices,
        strategy="ddp_find_unused_parameters_true" if run.devices > 1 else "auto",
        precision="bf16-mixed" if resolve_precision(run.precision, device) == "bfloat16" else "32-true",
        max_epochs=-1,
        max_steps=training.steps * module.optimizer_steps,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
    )


@contextmanager
def _interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt on Ctrl-C and SIGTERM; Lightning raises SystemExit, on SIGTERM with exit code 0."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if isinstance(error, SIGTERMException) or isinstance(error.__context__, KeyboardInterrupt):
            signal.signal(signal.SIGINT, before)
            raise KeyboardInterrupt from error
        raise


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Lightning's notes on the machine and its advice on data loaders, which does not apply."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric|lightning_utilities")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


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
    """Writes and prunes checkpoints; Lightning's ModelCheckpoint counts optimiser steps instead."""

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
            names = ", ".join(["step", *pl_module.scores])
            raise BlobexError(f"checkpoint.monitor is {options.monitor}, which was not measured: choose from {names}")
        temporary = self.folder / ".checkpoint.part"
        try:
            trainer.save_checkpoint(temporary)
        except OSError:  # such as a full disk
            temporary.unlink(missing_ok=True)
            raise
        if trainer.is_global_zero:
            temporary.replace(self.folder / checkpoints.file_name(step, score))
            checkpoints.prune(self.folder, self.training)
