"""Training loop of every network: an exact number of steps, resumable to the bit.

The data and the random numbers of a step are functions of the step alone, so a run that was stopped and resumed ends
with the same bytes as an uninterrupted one.
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

import pytorch_lightning as lightning
import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException

from blobex.config.data import Run
from blobex.config.training import Training
from blobex.core.device import is_first_process, keep_freed_memory, resolve_device, resolve_precision
from blobex.core.errors import BlobexError
from blobex.tracking.tracker import NullTracker, Tracker
from blobex.training import checkpoints
from blobex.training.callbacks import CheckpointWriter, HalveLearningRate, Reporter
from blobex.training.step_module import Batch, StepModule, split_batch

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
    """Train a module up to `training.steps` batches.

    On several devices the command runs once per device, each process trains on its share of the batch, and all but the
    first process end here (SystemExit 0). Batch statistics are those of each share; the reported losses are those of
    the first process. On one device the process trains alone, even under torchrun.

    Args:
        module: Module to train; it is set to training mode as a whole, so keep frozen networks out of it.
        batches: Function from a step to its batch of batch_size * accumulate samples.
        training: Parameters of the training.
        run: Devices and precision.
        folder: Folder of the checkpoints.
        tracker: Tracker of the recorded scalars.
        callbacks: Callbacks that run before the report and the checkpoint of a step.

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
