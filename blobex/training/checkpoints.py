"""Checkpoints of a training run: their names, which one to continue from, and which ones to keep.

A checkpoint is called `step-00001000.ckpt`, or `step-00001000-score-12.5.ckpt` where a measure is monitored. It is
written under a temporary name first, so whatever bears a checkpoint's name is whole.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from blobex.config.training import Training
from blobex.core.errors import BlobexError
from blobex.networks.tensor_file import load_tensors

ENTRY = "blobex"  # ours in the checkpoint: fingerprint and run_id
FINISHED = "finished"  # a file beside the checkpoints: the stage has written all its outputs
PREVIOUS = "previous"  # folder for the checkpoints of the run before
_NAME = re.compile(r"step-(\d+)(?:-score-(.+))?\.ckpt")


@dataclass(frozen=True)
class Checkpoint:
    """A file, the training steps it has behind it, and the measure monitored (None: not measured yet)."""

    path: Path
    step: int
    score: float | None


def file_name(step: int, score: float | None) -> str:
    """The name that `listed` reads back."""
    return f"step-{step:08d}.ckpt" if score is None else f"step-{step:08d}-score-{score:.6g}.ckpt"


def listed(folder: Path) -> list[Checkpoint]:
    """The checkpoints of a folder, oldest first."""
    found = [(path, _NAME.fullmatch(path.name)) for path in folder.glob("step-*.ckpt")]
    checkpoints = [
        Checkpoint(path, int(match[1]), float(match[2]) if match[2] else None) for path, match in found if match
    ]
    return sorted(checkpoints, key=lambda checkpoint: checkpoint.step)


def read_entry(checkpoint: Checkpoint) -> dict[str, Any]:
    """What blobex noted in a checkpoint: `fingerprint` of the configuration, and the tracker's `run_id` or None."""
    try:
        entry = dict(load_tensors(checkpoint.path, mapped=True)[ENTRY])
        return entry | {name: entry[name] for name in ("fingerprint", "run_id")}
    except (OSError, LookupError, TypeError, ValueError) as error:
        raise BlobexError(f"{checkpoint.path} is not a checkpoint of blobex or is damaged: delete it") from error


def choose(training: Training, folder: Path, fingerprint: str) -> Checkpoint | None:
    """The checkpoint that `training.resume` asks for; None starts afresh.

    `last` continues an unfinished run of the same configuration, and starts afresh where there is none. `best` and
    `step` name a checkpoint: BlobexError if it is not there or was made with another configuration.
    """
    source, there = training.resume.source, listed(folder)
    if source == "none" or (source == "last" and not there):
        return None
    if source == "last":
        return _unfinished(there[-1], training, fingerprint)
    if source == "best":
        wanted = best(there, training.checkpoint.monitor, training.checkpoint.mode, 1)
    else:
        wanted = [checkpoint for checkpoint in there if checkpoint.step == training.resume.step]
    if not wanted:
        steps = ", ".join(str(checkpoint.step) for checkpoint in there) or "none"
        name = "best checkpoint" if source == "best" else f"checkpoint of step {training.resume.step}"
        raise BlobexError(f"there is no {name} in {folder}: the steps there are {steps}")
    if read_entry(wanted[0])["fingerprint"] != fingerprint:
        raise BlobexError(f"{wanted[0].path} was made with other parameters or data: set resume.source to none")
    return wanted[0]


def _unfinished(newest: Checkpoint, training: Training, fingerprint: str) -> Checkpoint | None:
    """`newest` if training can go on from it, else None with the reason on stderr.

    After the last step only the outputs may be missing: then it is continued too, with no step left to make.
    """
    reason, finished = None, (newest.path.parent / FINISHED).exists()
    if newest.step > training.steps or (newest.step == training.steps and finished):
        reason = "has all its steps behind it"
    elif read_entry(newest)["fingerprint"] != fingerprint:
        reason = "was made with other parameters or data"
    if reason:
        print(f"{newest.path} {reason}: training starts afresh", file=sys.stderr)
    return None if reason else newest


def best(there: Sequence[Checkpoint], monitor: str, mode: Literal["min", "max"], count: int) -> list[Checkpoint]:
    """The `count` best checkpoints by the monitored measure or by `step`, the best first; NaN and unmeasured never."""

    def rank(checkpoint: Checkpoint) -> float:
        score = checkpoint.step if monitor == "step" else checkpoint.score
        return float("nan") if score is None else -score if mode == "max" else score

    return sorted((checkpoint for checkpoint in there if rank(checkpoint) == rank(checkpoint)), key=rank)[:count]


def mark_finished(folder: Path, finished: bool) -> None:
    """Note whether the outputs of the run whose checkpoints are in `folder` are all written."""
    if finished:
        (folder / FINISHED).touch()
    else:
        (folder / FINISHED).unlink(missing_ok=True)


def set_aside(folder: Path, after: int) -> None:
    """Move checkpoints beyond step `after` to `previous/`, whose earlier content goes: one folder holds one run."""
    stale = [checkpoint.path for checkpoint in listed(folder) if checkpoint.step > after]
    if not stale:
        return
    previous = folder / PREVIOUS
    previous.mkdir(exist_ok=True)
    for checkpoint in listed(previous):
        checkpoint.path.unlink()
    for path in stale:
        path.replace(previous / path.name)


def prune(folder: Path, training: Training) -> None:
    """Delete all but the newest checkpoint and the `keep` best (-1: delete none)."""
    options, there = training.checkpoint, listed(folder)
    if options.keep < 0:
        return
    kept = [*best(there, options.monitor, options.mode, options.keep), *there[-1:]]
    for checkpoint in there:
        if checkpoint not in kept:
            checkpoint.path.unlink()
