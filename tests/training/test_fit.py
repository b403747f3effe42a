"""The training loop: exact steps, resumption to the bit, checkpoints and errors."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from imports import ROOT
from torch import nn
from worlds.toy_training import RUN, TRAINING, Noisy, Recorder, batches, vary

from blobex.config.training import Checkpoints, Resume, Training
from blobex.core.errors import BlobexError
from blobex.tracking.tracker import NullTracker
from blobex.training import checkpoints
from blobex.training.fit import fit, resumed_run_id
from blobex.training.step_module import Batch


def stopping(at: int):
    def stopped(step: int) -> Batch:
        if step == at:
            raise InterruptedError("killed")
        return batches(step)

    return stopped


def resume(source: str, step: int | None = None, run_id: str | None = None) -> Training:
    return vary(resume=Resume(source=source, run_id=run_id, step=step))


def same(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.fixture
def unbroken(tmp_path: Path) -> Noisy:
    module = Noisy()
    fit(module, batches, TRAINING, RUN, tmp_path / "unbroken", NullTracker())
    return module


def steps_in(folder: Path) -> list[int]:
    return [checkpoint.step for checkpoint in checkpoints.list_checkpoints(folder)]


def scores_in(folder: Path) -> list[tuple[int, float | None]]:
    return [(checkpoint.step, checkpoint.score) for checkpoint in checkpoints.list_checkpoints(folder)]


def test_resumed_run_ends_with_the_bytes_of_an_unbroken_one(tmp_path: Path, unbroken: Noisy) -> None:
    folder, seen = tmp_path / "broken", []
    with pytest.raises(InterruptedError):
        fit(Noisy(), stopping(7), TRAINING, RUN, folder, Recorder())
    assert steps_in(folder) == [4]

    def watched(step: int) -> Batch:
        seen.append(step)
        return batches(step)

    module = Noisy()
    fit(module, watched, TRAINING, RUN, folder, NullTracker())
    assert seen == list(range(4, 12))
    assert same(module, unbroken)


def test_half_written_checkpoint_is_never_used(tmp_path: Path, unbroken: Noisy, monkeypatch) -> None:
    folder = tmp_path / "killed"

    def dying(source: Path, target: Path) -> Path:
        if "00000008" in str(target):
            source.write_bytes(source.read_bytes()[:100])
            raise InterruptedError("killed while writing")
        return source.rename(target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dying)
        with pytest.raises(InterruptedError):
            fit(Noisy(), batches, TRAINING, RUN, folder, NullTracker())
    assert steps_in(folder) == [4] and (folder / ".checkpoint.part").exists()
    module = Noisy()
    fit(module, batches, TRAINING, RUN, folder, NullTracker())
    assert same(module, unbroken)
    assert not (folder / ".checkpoint.part").exists()


def test_accumulated_chunks_give_the_gradient_of_the_batch(tmp_path: Path) -> None:
    class Quiet(Noisy):
        def generator(self, step: int | None = None) -> torch.Generator:  # the same noise for both batch shapes
            return torch.Generator().manual_seed(1)

    whole, split = Quiet(), Quiet(vary(accumulate=4, batch_size=2))
    fit(whole, lambda step: batches(step, 8), vary(batch_size=8), RUN, tmp_path / "a", NullTracker())
    fit(split, lambda step: batches(step, 8), vary(accumulate=4, batch_size=2), RUN, tmp_path / "b", NullTracker())
    for a, b in zip(whole.state_dict().values(), split.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_learning_rate_halves(tmp_path: Path) -> None:
    rates = []

    class Watched(Noisy):
        def training_step(self, batch: Batch, index: int) -> None:
            super().training_step(batch, index)
            rates.append([optimizer.param_groups[0]["lr"] for optimizer in self.trainer.optimizers])

    fit(Watched(), batches, TRAINING, RUN, tmp_path, NullTracker())
    assert rates == [[0.05] * 2] * 5 + [[0.025] * 2] * 5 + [[0.0125] * 2] * 2


def test_measures_reach_the_tracker_and_the_loss_falls(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("blobex.training.fit.LOG_EVERY", 5)
    tracker = Recorder()
    checkpoint = dataclasses.replace(TRAINING.checkpoint, every_n_steps=50)
    fit(Noisy(), batches, vary(steps=62, halve_every=0, checkpoint=checkpoint), RUN, tmp_path, tracker)
    assert [step for step, _ in tracker.metrics] == [*range(5, 61, 5), 62]
    assert tracker.metrics[-1][1]["loss"] < 0.1 * tracker.metrics[0][1]["loss"]


def test_loss_that_is_not_finite_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BlobexError, match="lower the learning rate"):
        fit(
            Noisy(),
            lambda step: (batches(step)[0] * float("inf"), batches(step)[1]),
            TRAINING,
            RUN,
            tmp_path,
            Recorder(),
        )
    assert steps_in(tmp_path) == []  # the report before the first checkpoint fails


def test_pruning_keeps_the_last_the_best_or_all(tmp_path: Path) -> None:
    fit(Noisy(), batches, TRAINING, RUN, tmp_path / "last", NullTracker())
    assert steps_in(tmp_path / "last") == [8, 12]
    everything = vary(checkpoint=Checkpoints(every_n_steps=5, keep=-1, monitor="step", mode="max"))
    fit(Noisy(), batches, everything, RUN, tmp_path / "all", NullTracker())
    assert steps_in(tmp_path / "all") == [5, 10, 12]

    class Scored(Noisy):
        def training_step(self, batch: Batch, index: int) -> None:
            super().training_step(batch, index)
            self.score({"fd": {2: 5.0, 4: 1.5, 6: float("nan"), 8: 3.0, 10: 4.0, 12: 9.0}.get(self.step, 0.0)})

    scored = vary(checkpoint=Checkpoints(every_n_steps=2, keep=2, monitor="fd", mode="min"))
    fit(Scored(), batches, scored, RUN, tmp_path / "best", NullTracker())
    assert scores_in(tmp_path / "best") == [(4, 1.5), (8, 3.0), (12, 9.0)]  # the newest stays, to be resumed
    again = vary(scored, resume=Resume(source="best", run_id=None, step=None))
    module = Scored()
    fit(module, stopping(12), again, RUN, tmp_path / "best", NullTracker())
    assert steps_in(tmp_path / "best" / "previous") == [8, 12]


def test_resume_by_step_equals_the_unbroken_run(tmp_path: Path, unbroken: Noisy) -> None:
    module = Noisy()
    fit(module, batches, resume("step", 8), RUN, tmp_path / "unbroken", NullTracker())
    assert same(module, unbroken)


def test_error_for_a_missing_checkpoint_names_the_existing_ones(tmp_path: Path, unbroken: Noisy) -> None:
    with pytest.raises(BlobexError, match=r"no checkpoint of step 5 .* 8, 12"):
        fit(Noisy(), batches, resume("step", 5), RUN, tmp_path / "unbroken", NullTracker())
    with pytest.raises(BlobexError, match=r"no best checkpoint .* none"):
        fit(Noisy(), batches, resume("best"), RUN, tmp_path / "empty", NullTracker())


def test_other_configuration_starts_afresh_or_is_refused(tmp_path: Path, unbroken: Noisy, capsys) -> None:
    folder, longer = tmp_path / "unbroken", vary(steps=14)
    other = Noisy(config={"network": "other"})
    with pytest.raises(BlobexError, match="other parameters"):
        fit(other, batches, vary(longer, resume=resume("step", 8).resume), RUN, folder, NullTracker())
    fit(other, batches, longer, RUN, folder, NullTracker())
    assert "starts afresh" in capsys.readouterr().err
    assert steps_in(folder) == [12, 14] and steps_in(folder / "previous") == [8, 12]


def test_finished_run_is_trained_again_or_extended(tmp_path: Path, unbroken: Noisy) -> None:
    folder, seen = tmp_path / "unbroken", []

    def watched(step: int) -> Batch:
        seen.append(step)
        return batches(step)

    fit(Noisy(), watched, vary(steps=14), RUN, folder, NullTracker())
    assert seen == [12, 13]
    again = Noisy()
    fit(again, watched, TRAINING, RUN, folder, NullTracker())
    assert seen[2:] == list(range(12)) and same(again, unbroken)


def test_run_stopped_after_its_last_step_makes_no_step(tmp_path: Path, unbroken: Noisy) -> None:
    folder, seen = tmp_path / "unbroken", []

    def watched(step: int) -> Batch:
        seen.append(step)
        return batches(step)

    again = Noisy()
    fit(again, watched, TRAINING, RUN, folder, NullTracker())
    assert seen == [] and same(again, unbroken)
    checkpoints.mark_finished(folder, True)
    fit(Noisy(), watched, TRAINING, RUN, folder, NullTracker())
    assert seen == list(range(TRAINING.steps))
    assert not (folder / checkpoints.FINISHED).exists()


def test_error_for_an_unmeasured_monitor(tmp_path: Path) -> None:
    options = vary(checkpoint=dataclasses.replace(TRAINING.checkpoint, monitor="fd_parser"))
    with pytest.raises(BlobexError, match="monitor is fd_parser, which was not measured: choose from step"):
        fit(Noisy(), batches, options, RUN, tmp_path, NullTracker())


def test_checkpoint_has_no_score_of_another_step(tmp_path: Path) -> None:
    """With one at every second step and a measure at every fourth, both that were measured stay, and the newest."""

    class Scored(Noisy):
        def training_step(self, batch: Batch, index: int) -> None:
            super().training_step(batch, index)
            if self.step % 4 == 0:
                self.score({"fd": {4: 0.20, 8: 0.21, 12: 0.30}[self.step]})

    options = vary(checkpoint=Checkpoints(every_n_steps=2, keep=2, monitor="fd", mode="min"))
    fit(Scored(), batches, options, RUN, tmp_path, NullTracker())
    assert [(item.step, item.score) for item in checkpoints.list_checkpoints(tmp_path)] == [
        (4, 0.2),
        (8, 0.21),
        (12, 0.3),
    ]


def test_losses_after_resumption_equal_those_of_an_unbroken_run(tmp_path: Path) -> None:
    options = vary(checkpoint=dataclasses.replace(TRAINING.checkpoint, monitor="loss", mode="min", keep=-1))
    whole, broken = Recorder(), Recorder()
    fit(Noisy(), batches, options, RUN, tmp_path / "whole", whole)
    with pytest.raises(InterruptedError):
        fit(Noisy(), stopping(9), options, RUN, tmp_path / "broken", broken)
    fit(Noisy(), batches, options, RUN, tmp_path / "broken", broken)
    assert [step for step, _ in whole.metrics] == [4, 8, 12] and broken.metrics == whole.metrics
    assert checkpoints.list_checkpoints(tmp_path / "broken")[-1].score == pytest.approx(
        whole.metrics[-1][1]["loss"], rel=1e-5
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_raise_keyboard_interrupt(tmp_path: Path, number: signal.Signals) -> None:
    """Lightning ends the process instead, after SIGTERM as if all had gone well, and then ignores Ctrl-C."""

    def stopped(step: int) -> Batch:
        if step == 6:
            os.kill(os.getpid(), number)
        return batches(step)

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        fit(Noisy(), stopped, TRAINING, RUN, tmp_path, NullTracker())
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert steps_in(tmp_path) == [4]


def test_process_trains_alone_on_one_device_under_torchrun(tmp_path: Path, unbroken: Noisy, monkeypatch) -> None:
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    beside = Noisy()
    fit(beside, batches, TRAINING, RUN, tmp_path / "beside", NullTracker())
    assert same(beside, unbroken) and steps_in(tmp_path / "beside")


def test_run_id_is_read_from_the_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(InterruptedError):
        fit(Noisy(), stopping(7), TRAINING, RUN, tmp_path, Recorder("run-9"))
    assert resumed_run_id(Noisy(), TRAINING, tmp_path) == "run-9"
    assert resumed_run_id(Noisy(), resume("last", run_id="run-2"), tmp_path) == "run-2"
    assert resumed_run_id(Noisy(), resume("none"), tmp_path) is None
    assert resumed_run_id(Noisy(width=5), TRAINING, tmp_path) is None


def test_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "step-00000004.ckpt").write_text("not a checkpoint")
    with pytest.raises(BlobexError, match=r"step-00000004.ckpt .* delete it"):
        fit(Noisy(), batches, TRAINING, RUN, tmp_path, NullTracker())


def test_only_checkpoints_are_written(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    fit(Noisy(), batches, TRAINING, RUN, tmp_path / "models", NullTracker())
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["models", "step-00000008.ckpt", "step-00000012.ckpt"]
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == ""


def test_batch_must_divide_among_devices(tmp_path: Path) -> None:
    with pytest.raises(BlobexError, match="does not divide"):
        fit(Noisy(), batches, TRAINING, dataclasses.replace(RUN, devices=3), tmp_path, NullTracker())


def test_modules_are_trained_in_training_mode(tmp_path: Path) -> None:
    module = Noisy()
    fit(module.eval(), batches, TRAINING, RUN, tmp_path, NullTracker())
    assert module.net.training


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    script = """
import dataclasses, sys
from pathlib import Path
import torch
from blobex.tracking.tracker import NullTracker
from blobex.training.fit import fit
from worlds.toy_training import RUN, TRAINING, Noisy, batches

class Still(Noisy):
    def generator(self, step=None):
        return torch.Generator().manual_seed(1)
    def training_step(self, batch, index):
        for optimizer in self.optimizers():
            self.descend(optimizer, self.loss, batch)

if __name__ == "__main__":
    module, devices = Still(), int(sys.argv[2])
    folder = Path(sys.argv[1]) / str(devices)
    fit(module, batches, TRAINING, dataclasses.replace(RUN, devices=devices), folder, NullTracker())
    torch.save(module.state_dict(), Path(sys.argv[1]) / f"{devices}.pt")
"""
    path = tmp_path / "train.py"
    path.write_text(script)
    for devices in ("1", "2"):
        done = subprocess.run(
            [sys.executable, str(path), str(tmp_path), devices],
            env={"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
    one, two = (torch.load(tmp_path / f"{count}.pt", weights_only=True) for count in (1, 2))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-5)
