"""`python tests/compare_samplers.py`: compare the least loss that each sampler finds, for several seeds.

The search is tuned in the painted world, whose networks are formulas: a trial takes a second. The first two trials are
the present and the published settings, and the next ones random, the same for all samplers.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from worlds.sweep_world import search_task

from blobex.config.sweeps import Range
from blobex.sweeps.storage import StudyFolder
from blobex.sweeps.study import begin
from blobex.sweeps.trials import excess, whole_trials
from blobex.sweeps.worker import work

SPACE = {
    "travel": Range(0.2, 20, True, False),
    "steps": Range(10, 100, True, True),
    "size_lr_multiplier": Range(1, 32, True, False),
    "lambda_prox": Range(0.001, 10, True, False),
    "margin": Range(0.01, 2, True, False),
}


def least(sampler: str, seed: int, trials: int) -> tuple[np.ndarray, float]:
    """Return the least loss after each trial (trials,), infinite until one keeps the limits, and the seconds."""
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        task = search_task(Path(folder), sampler=sampler, seed=seed, pruner="none", seconds=None, space=SPACE)
        task.prepare()
        study = begin(task, StudyFolder(Path(folder)), "study")
        work(study, task, task.explainer.params, trials)
        losses = [float("inf")] * trials
        for trial in whole_trials(study.trials()):
            if not excess(trial):
                losses[trial.number] = trial.user_attrs["loss"]
    return np.minimum.accumulate(losses), time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("samplers", nargs="*", default=["gp", "tpe", "random"])
    given = parser.parse_args()
    for sampler in given.samplers:
        results = [least(sampler, seed, given.trials) for seed in range(given.seeds)]
        curves = np.stack([curve for curve, _ in results])
        for after in sorted({2, given.trials // 2, given.trials}):
            by_seed = " ".join(f"{loss:.4f}" for loss in curves[:, after - 1])
            print(
                f"{sampler:<7} after {after:>3}: mean {curves[:, after - 1].mean():.4f}, by seed {by_seed}", flush=True
            )
        print(f"{sampler:<7} {np.mean([seconds for _, seconds in results]):.0f} s a study", flush=True)


if __name__ == "__main__":
    main()
