"""Checkpoints of a training run: file names, choice of the one to resume, and pruning.

A checkpoint is named `step-00001000.ckpt`, or `step-00001000-score-12.5.ckpt` if a measure is monitored. It is written
under a temporary name first, so a file with a checkpoint's name is complete.
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
from blobex.networks.weights import load_tensors

ENTRY = "blobex"  # blobex's entry in the checkpoint: fingerprint and run_id
FINISHED = "finished"  # file beside the checkpoints once the stage has written all its outputs
PREVIOUS = "previous"  # folder for the checkpoints of the run before
_NAME = re.compile(r"step-(\d+)(?:-score-(.+))?\.ckpt")


@dataclass(frozen=True)
class Checkpoint:
    path: Path
    step: int  # number of steps trained
    score: float | None  # the monitored measure; None if it was not measured at this step


def file_name(step: int, score: float | None) -> str:
    return f"step-{step:08d}.ckpt" if score is None else f"step-{step:08d}-score-{score:.6g}.ckpt"


def list_checkpoints(folder: Path) -> list[Checkpoint]:
    """List the checkpoints of a folder, oldest first."""
    matches = [(path, _NAME.fullmatch(path.name)) for path in folder.glob("step-*.ckpt")]
    checkpoints = [
        Checkpoint(path, int(match[1]), float(match[2]) if match[2] else None) for path, match in matches if match
    ]
    return sorted(checkpoints, key=lambda checkpoint: checkpoint.step)


def read_entry(checkpoint: Checkpoint) -> dict[str, Any]:
    """Read blobex's entry in a checkpoint: `fingerprint` of the configuration, and the tracker's `run_id` or None."""
    try:
        entry = dict(load_tensors(checkpoint.path, mapped=True)[ENTRY])
        return entry | {name: entry[name] for name in ("fingerprint", "run_id")}
    except (OSError, LookupError, TypeError, ValueError) as error:
        raise BlobexError(f"{checkpoint.path} is not a checkpoint of blobex or is damaged: delete it") from error


def choose_checkpoint(training: Training, folder: Path, fingerprint: str) -> Checkpoint | None:
    """Return the checkpoint that `training.resume` selects, or None to start afresh.

    `last` continues an unfinished run of the same configuration and otherwise starts afresh. `best` and `step` require
    a checkpoint. Raises BlobexError if the required checkpoint is missing or was made with another configuration.
    """
    source, checkpoints = training.resume.source, list_checkpoints(folder)
    if source == "none" or (source == "last" and not checkpoints):
        return None
    if source == "last":
        return _unfinished(checkpoints[-1], training, fingerprint)
    if source == "best":
        selected = best(checkpoints, training.checkpoint.monitor, training.checkpoint.mode, 1)
    else:
        selected = [checkpoint for checkpoint in checkpoints if checkpoint.step == training.resume.step]
    if not selected:
        steps = ", ".join(str(checkpoint.step) for checkpoint in checkpoints) or "none"
        name = "best checkpoint" if source == "best" else f"checkpoint of step {training.resume.step}"
        raise BlobexError(f"there is no {name} in {folder}: the steps there are {steps}")
    if read_entry(selected[0])["fingerprint"] != fingerprint:
        raise BlobexError(f"{selected[0].path} was made with other parameters or data: set resume.source to none")
    return selected[0]


def _unfinished(newest: Checkpoint, training: Training, fingerprint: str) -> Checkpoint | None:
    """Return `newest` if the run can be continued, else print the reason to stderr and return None.

    A run that made its last step but did not write its outputs is continued too, with no step left.
    """
    reason, finished = None, (newest.path.parent / FINISHED).exists()
    if newest.step > training.steps or (newest.step == training.steps and finished):
        reason = "has made all its steps"
    elif read_entry(newest)["fingerprint"] != fingerprint:
        reason = "was made with other parameters or data"
    if reason:
        print(f"{newest.path} {reason}: training starts afresh", file=sys.stderr)
    return None if reason else newest


def best(checkpoints: Sequence[Checkpoint], monitor: str, mode: Literal["min", "max"], count: int) -> list[Checkpoint]:
    """Return the `count` best checkpoints by the monitored measure or by `step`, without NaN and unmeasured ones."""

    def rank(checkpoint: Checkpoint) -> float:
        score = checkpoint.step if monitor == "step" else checkpoint.score
        return float("nan") if score is None else -score if mode == "max" else score

    return sorted((checkpoint for checkpoint in checkpoints if rank(checkpoint) == rank(checkpoint)), key=rank)[:count]


def mark_finished(folder: Path, finished: bool) -> None:
    """Mark whether all outputs of the run with these checkpoints are written."""
    if finished:
        (folder / FINISHED).touch()
    else:
        (folder / FINISHED).unlink(missing_ok=True)


def move_stale(folder: Path, after: int) -> None:
    """Move checkpoints beyond step `after` to `previous/` and delete its former ones: a folder holds one run."""
    stale = [checkpoint.path for checkpoint in list_checkpoints(folder) if checkpoint.step > after]
    if not stale:
        return
    previous = folder / PREVIOUS
    previous.mkdir(exist_ok=True)
    for checkpoint in list_checkpoints(previous):
        checkpoint.path.unlink()
    for path in stale:
        path.replace(previous / path.name)


def prune(folder: Path, training: Training) -> None:
    """Delete all checkpoints but the newest and the `keep` best; keep = -1 keeps all."""
    options, checkpoints = training.checkpoint, list_checkpoints(folder)
    if options.keep < 0:
        return
    kept = [*best(checkpoints, options.monitor, options.mode, options.keep), *checkpoints[-1:]]
    for checkpoint in checkpoints:
        if checkpoint not in kept:
            checkpoint.path.unlink()
