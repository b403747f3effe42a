"""The loop that trains every network: Lightning's trainer, to an exact number of steps, resumable to the bit.

The data of a step is a pure function of the step, and so is all randomness (`generator`): a run that was stopped and
resumed ends with the same bytes as an unbroken one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as lightning
import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import Tensor
from tqdm import tqdm

from blobex.config.data import Run
from blobex.config.training import Training
from blobex.core.device import is_first_process, keep_freed_memory, resolve_device, resolve_precision
from blobex.core.errors import BlobexError
from blobex.tracking.tracker import NullTracker, Tracker
from blobex.training import checkpoints

Batch = tuple[Tensor, ...]  # tensors of equal length: sample i is entry i of each
LOG_EVERY = 50  # steps between two reports to the tracker
_DIVIDED: list[Path] = []  # what this command trained in several processes: Lightning starts them once only


class StepModule(lightning.LightningModule):
    """A network in training that makes its own optimiser steps.

    Subclasses set `optimizer_steps` (optimiser steps per batch; a GAN has 2), write `training_step(batch, index)` and
    `configure_optimizers()`. `config` is what a checkpoint must agree with: network, picture size, data.
    """

    optimizer_steps = 1

    def __init__(self, training: Training, seed: int, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.accumulate, self.seed, self.config = training.accumulate, seed, dict(config)
        self.scores: dict[str, tuple[int, float]] = {}  # step and value of each measure's last time
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def depends_on(self, **content: Any) -> None:
        """Note what else a checkpoint must agree with, such as checksums of data and of other networks."""
        self.config |= content

    @property
    def step(self) -> int:
        """Batches behind the module since training began, across resumptions."""
        return self.trainer.global_step // self.optimizer_steps

    def generator(self, step: int | None = None) -> torch.Generator:
        """The random numbers of a step (None: the one going on) on this process, on the module's device."""
        numbers = (self.seed, self.step if step is None else step, self.global_rank)
        return torch.Generator(self.device).manual_seed(seed_of(*numbers))

    def chunks(self, batch: Batch) -> Iterator[Batch]:
        """`accumulate` equal parts of a batch: the mean of their gradients is the gradient of the batch."""
        return (part(batch, index, self.accumulate) for index in range(self.accumulate))

    def descend(self, optimizer: Any, loss: Callable[[Batch], Tensor], batch: Batch) -> None:
        """One optimiser step on the mean of `loss` over the batch, a chunk at a time."""
        optimizer.zero_grad(set_to_none=True)
        for chunk in self.chunks(batch):
            self.manual_backward(loss(chunk) / self.accumulate)
        optimizer.step()

    def record(self, **measures: Tensor) -> None:
        """Note scalars of this step; their means over the steps between two reports go to the tracker."""
        for name, value in measures.items():
            value = value.detach()
            self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()
            self._counts[name] = self._counts.get(name, 0) + 1

    def check_finite(self) -> None:
        """BlobexError if a measure noted since the last report is not finite."""
        wrong = next((name for name, total in self._sums.items() if not torch.isfinite(total)), None)
        if wrong is not None:
            raise BlobexError(f"{wrong} is not finite at step {self.step}: lower the learning rate and train again")

    def score(self, measures: Mapping[str, float]) -> None:
        """Note what was measured after this step, for the checkpoint's monitor."""
        self.scores |= {name: (self.step, value) for name, value in measures.items()}

    def take_records(self) -> dict[str, float]:
        """The means noted since the last call."""
        means = {name: float(total) / self._counts[name] for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means


def fit(
    module: StepModule,
    batches: Callable[[int], Batch],
    training: Training,
    run: Run,
    folder: Path,
    tracker: Tracker,
    callbacks: Sequence[lightning.Callback] = (),
) -> None:
    """Train `module` until `training.steps` batches are behind it; checkpoints go to `folder`.

    `batches(step)` gives the batch_size * accumulate samples of a step. All of `module` is put in training mode: keep
    frozen networks out of it. On several devices the command is started once for each, and each process takes its
    share of the batch; all but the first end here (SystemExit 0), so one command can train one network. Batch
    statistics are those of each share, and the losses that are reported those of the first. On one device the process
    trains alone, even if torchrun started others beside it. BlobexError if the batch does not divide among the devices,
    the checkpoint to resume is missing, or a recorded loss is no longer finite.
    """
    if training.batch_size % run.devices:
        raise BlobexError(f"a batch of {training.batch_size} does not divide among {run.devices} devices: change one")
    if run.devices > 1 and _DIVIDED:
        raise BlobexError("on several devices one command trains one network: train the second with another command")
    mark = fingerprint(module, training)
    found = checkpoints.choose(training, folder, mark)
    start = found.step if found else 0
    first = run.devices == 1 or is_first_process()
    if first:
        folder.mkdir(parents=True, exist_ok=True)
        checkpoints.set_aside(folder, after=start)
        checkpoints.mark_finished(folder, False)
    else:
        tracker = NullTracker()
    reporter, keeper = _Reporter(training, start, tracker, first), _Keeper(training, folder, mark, tracker)
    hooks = [_LearningRate(training.halve_every), *callbacks, reporter, keeper]
    module.train()
    keep_freed_memory()
    with _quiet():
        trainer = _trainer(module, training, run, hooks)
        data = _Steps(batches, start, training.steps, run.devices)
        with _interruptible():
            trainer.fit(module, data, ckpt_path=str(found.path) if found else None, weights_only=True)
    if run.devices > 1:
        _DIVIDED.append(folder)
        torch.distributed.destroy_process_group()  # else measures would wait for the others
    if not first:
        raise SystemExit(0)


def resumed_run_id(module: StepModule, training: Training, folder: Path) -> str | None:
    """The tracker run to continue: the one `training.resume` names, else the one of the checkpoint to resume."""
    found = checkpoints.choose(training, folder, fingerprint(module, training))
    if training.resume.run_id is not None or found is None:
        return training.resume.run_id
    run_id: str | None = checkpoints.read_entry(found)["run_id"]
    return run_id


def fingerprint(module: StepModule, training: Training) -> str:
    """A hash of everything that must agree for a checkpoint to be continued; steps and file keeping need not."""
    options = dataclasses.asdict(training)
    for name in ("steps", "checkpoint", "resume"):
        del options[name]
    shapes = {name: list(tensor.shape) for name, tensor in module.state_dict().items()}
    content = [type(module).__name__, module.seed, module.config, options, shapes]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def seed_of(*numbers: int) -> int:
    """One 63-bit seed from several whole numbers from 0, such as (seed, step)."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def part(batch: Batch, index: int, parts: int) -> Batch:
    """Part `index` of a batch cut into equal contiguous `parts`."""
    size = len(batch[0]) // parts
    return tuple(tensor[index * size : (index + 1) * size] for tensor in batch)


class _Steps:
    """This process's share of the batch of each step from `start` on."""

    def __init__(self, batches: Callable[[int], Batch], start: int, stop: int, devices: int) -> None:
        self.batches, self.start, self.stop, self.devices = batches, start, stop, devices

    def __iter__(self) -> Iterator[Batch]:
        rank = int(os.environ.get("LOCAL_RANK", "0")) if self.devices > 1 else 0
        return (part(self.batches(step), rank, self.devices) for step in range(self.start, self.stop))


class _LearningRate(lightning.Callback):
    """Halves every optimiser's learning rate every `halve_every` steps (0: never)."""

    def __init__(self, halve_every: int) -> None:
        self.halve_every = halve_every

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        factor = 0.5 ** (pl_module.step // self.halve_every) if self.halve_every else 1.0
        for group in (group for optimizer in trainer.optimizers for group in optimizer.param_groups):
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor


class _Reporter(lightning.Callback):
    """Sends the recorded measures to the tracker and moves the progress bar (shown on a terminal only).

    Also before each checkpoint: so none holds half a report, and one that monitors a loss finds it measured.
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


class _Keeper(lightning.Callback):
    """Writes checkpoints.

    Lightning's own ModelCheckpoint counts optimiser steps, and warns whenever optimisation is manual.
    """

    def __init__(self, training: Training, folder: Path, mark: str, tracker: Tracker) -> None:
        self.training, self.folder, self.mark, self.tracker = training, folder, mark, tracker

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint[checkpoints.ENTRY] = {"fingerprint": self.mark, "run_id": self.tracker.run_id}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step, options = pl_module.step, self.training.checkpoint
        if step % options.every_n_steps and step != self.training.steps:
            return
        measured_at, score = pl_module.scores.get(options.monitor, (None, None))
        score = score if measured_at == step else None  # what other steps achieved is none of this one's
        needed = trainer.is_global_zero and options.monitor != "step" and step == self.training.steps
        if score is None and needed:  # the first process alone measures pictures
            measured = ", ".join(["step", *pl_module.scores])
            raise BlobexError(
                f"checkpoint.monitor is {options.monitor}, which was not measured: choose from {measured}"
            )
        temporary = self.folder / ".checkpoint.part"
        try:
            trainer.save_checkpoint(temporary)
        except OSError:  # a full disk
            temporary.unlink(missing_ok=True)
            raise
        if trainer.is_global_zero:
            temporary.replace(self.folder / checkpoints.file_name(step, score))
            checkpoints.prune(self.folder, self.training)


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
    """KeyboardInterrupt for Ctrl-C and SIGTERM. Lightning makes a SystemExit of them: of SIGTERM, one of success."""
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
    """Without Lightning's notes on the machine, and without its advice about data loaders, which does not apply."""
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
