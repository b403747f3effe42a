"""`make chaos`: kill every stage at random moments, let it continue, and compare with an undisturbed run.

The stages run on the smoke profile, one after the other, in two copies of the project. In one copy each stage is killed
with SIGKILL, with DVC and all child processes, at moments drawn uniformly from its CPU time, so that other load on the
machine makes no difference; then `dvc repro` finishes it. All outputs must have the hashes of the undisturbed copy. A
stage may have at most one open MLflow run at any time, as the run of a killed stage is continued, and none at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
import yaml
from worlds.project_copy import copy_project, dvc, start

STAGES = (
    *("scenes", "parser@rect", "decision@rect-plain", "control@rect", "fid_stats@rect", "blobgan_pretrain@rect"),
    *("blobgan@rect", "encoder_pretrain@rect", "encoder@rect", "witness@rect", "invert@rect", "explain@rect-basic"),
    *("evaluate@rect", "truth@rect"),
)
PREREQUISITES = {  # further stages to run before a stage, which are not killed
    "encoder_pretrain@rect": ("decision@rect-biased", "decision@rect-night", "decision@rect-verge"),
    "evaluate@rect": ("explain@rect-targeted", "explain@rect-diverse"),
}
STARTUP = 0.3  # approximate share of the CPU time that DVC and imports take before a stage begins
RWLOCK, LOCK = ".dvc/tmp/rwlock", "dvc.lock"
POLL_SECONDS = 0.25  # longer intervals hit moments less exactly, shorter ones take CPU time themselves


def main() -> None:
    options = arguments()
    killed_stages = tuple(stage for stage in STAGES if stage in options.stages)
    last = STAGES.index(killed_stages[-1]) + 1
    moments = random.Random(options.seed)
    folder = Path(tempfile.mkdtemp(prefix="blobex-chaos-"))
    calm, wild = (copy_project(folder / name, "smoke") for name in ("calm", "wild"))
    wrong = []
    for stage in STAGES[:last]:
        kills, seconds = options.kills if stage in killed_stages else 0, run_undisturbed(calm, stage)
        most_open, in_open_run = run_killed(wild, stage, kills, seconds, moments)
        different = [path for path, md5 in hashes(calm, stage).items() if hashes(wild, stage).get(path) != md5]
        states = unfinished_runs(wild, stage)
        passed = not different and not states and most_open <= 1
        faults = f"different: {different}, unfinished runs: {states}, open at once: {most_open}"
        verdict = "the same bytes, one run continued" if passed else faults
        print(f"{stage}, {seconds:.0f} s: {kills} kills, {in_open_run} of them in an open run; {verdict}", flush=True)
        wrong += [] if passed else [stage]
    if wrong:
        raise SystemExit(f"not as an undisturbed run: {', '.join(wrong)} (see {folder})")
    shutil.rmtree(folder)
    print(f"{len(killed_stages)} stages, {options.kills} kills each: all outputs are those of an undisturbed run")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10, help="kills of each stage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("stages", nargs="*", default=STAGES, help="stages to kill; all by default")
    return parser.parse_args()


def run_undisturbed(folder: Path, stage: str) -> float:
    """Run a stage; return its CPU seconds, including those of DVC."""
    run_prerequisites(folder, stage)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    dvc(folder, "repro", "--single-item", stage)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def run_killed(folder: Path, stage: str, kills: int, seconds: float, moments: random.Random) -> tuple[int, int]:
    """Kill a stage several times, then let it finish.

    Returns:
        The largest number of runs that were open at once, and the number of kills within an open run.
    """
    run_prerequisites(folder, stage)
    done = most_open = in_open_run = 0
    lock = (folder / LOCK).read_text() if (folder / LOCK).exists() else None
    while done < kills:
        process = start(folder, "repro", "--single-item", "--force", stage)
        output = kill_after(process, moments.uniform(STARTUP * seconds, seconds))
        if output is not None:
            assert process.returncode == 0, output
            continue
        done += 1
        repair_rwlock(folder / RWLOCK)
        restore_lock(folder / LOCK, lock)
        open_runs = len(unfinished_runs(folder, stage))
        most_open, in_open_run = max(most_open, open_runs), in_open_run + bool(open_runs)
    dvc(folder, "repro", "--single-item", "--force", stage)
    return most_open, in_open_run


def run_prerequisites(folder: Path, stage: str) -> None:
    for prerequisite in PREREQUISITES.get(stage, ()):
        dvc(folder, "repro", "--single-item", prerequisite)


def kill_after(process: subprocess.Popen[str], seconds: float) -> str | None:
    """Kill DVC and all its child processes after some CPU seconds; return its output if it ended before."""
    while process.poll() is None:
        if cpu_seconds(process.pid) >= seconds:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return None
        time.sleep(POLL_SECONDS)
    return "".join(process.communicate())[-2000:]


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds of a process and its child processes, including those that have ended."""
    total = 0.0
    with suppress(psutil.Error):
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            with suppress(psutil.Error):
                total += sum(process.cpu_times()[:4])  # user, system, children's user and system
    return total


def repair_rwlock(file: Path) -> None:
    """Remove DVC's file of read and write locks if it was killed while writing it, as a person must."""
    try:
        json.loads(file.read_text())
    except FileNotFoundError:
        return
    except ValueError:
        print(f"DVC was killed while it wrote {RWLOCK}: removed", flush=True)
        file.unlink()


def restore_lock(file: Path, content: str | None) -> None:
    """Restore dvc.lock as `git checkout dvc.lock` does: DVC empties it before writing, and may be killed between."""
    text = file.read_text() if file.exists() else None
    if content is None and text is not None and not text.endswith("\n"):
        file.unlink()
    elif content is not None and (text is None or len(text) < len(content)):
        file.write_text(content)
    else:
        return
    print(f"DVC was killed while it wrote {LOCK}: restored", flush=True)


def hashes(folder: Path, stage: str) -> dict[str, str]:
    """Return the MD5 of each output of a stage, including metrics and plots."""
    outs = yaml.safe_load((folder / "dvc.lock").read_text())["stages"][stage]["outs"]
    return {out["path"]: out["md5"] for out in outs}


def unfinished_runs(folder: Path, stage: str) -> list[str]:
    """Return the states of a stage's MLflow runs that are not finished."""
    from mlflow import MlflowClient

    name, _, item = stage.partition("@")
    setup, _, variant = item.partition("-")
    client = MlflowClient(f"sqlite:///{folder}/mlruns/mlflow.db")
    experiment = client.get_experiment_by_name(name)
    runs = client.search_runs([experiment.experiment_id]) if experiment else []
    tags = {"setup": setup or "all", **({"variant": variant} if variant else {})}
    states = [run.info.status for run in runs if tags.items() <= run.data.tags.items()]
    return [state for state in states if state != "FINISHED"]


if __name__ == "__main__":
    main()
