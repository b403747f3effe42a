"""Phases that report to a listener."""

from __future__ import annotations

import pytest
import torch

from blobex.core import progress
from blobex.core.progress import Phase, listening, phase


def test_listener_hears_start_steps_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    heard = list[Phase]()
    with listening(heard.append), phase("inversion", total=4, steps=10) as report:
        report(0, {"iteration": torch.tensor([5, 6]), "loss": torch.tensor([1.0, 3.0])})
        report(1, {"iteration": torch.tensor([10]), "margin": torch.tensor([0.5]), "loss": torch.tensor([9.0])})
        report(3, {})
    assert [(each.done, each.step, each.score) for each in heard[:3]] == [(0, 0, None), (0, 5, 2.0), (1, 10, 0.5)]
    assert [each.share for each in heard] == [0.0, 0.5, 1.0, 1.0, 1.0]
    assert heard[-1].finished and heard[-1].done == 4


def test_reports_are_at_most_one_an_interval() -> None:
    heard = list[Phase]()
    with listening(heard.append), phase("search", total=1000) as report:
        for _ in range(1000):
            report(1, {})
    assert len(heard) < 100 and heard[-1].done == 1000


def test_interrupted_phase_does_not_end() -> None:
    heard = list[Phase]()
    with pytest.raises(KeyboardInterrupt), listening(heard.append), phase("search", total=2):
        raise KeyboardInterrupt
    assert [each.finished for each in heard] == [False]
    with phase("alone", total=1) as report:  # nobody listens any more
        report(1, {})
    assert len(heard) == 1
