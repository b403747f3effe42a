"""`make chaos`: kill every stage at random moments, let it go on, and compare with a run that nothing disturbed.

The stages run on the smoke profile, one after the other, in two copies of the project. In one each stage is killed
with SIGKILL, DVC and all, KILLS times, at moments drawn evenly from the processor's time that it takes, so that other
work on the machine makes no difference; then `dvc repro` finishes it. All outputs must have the hashes of the
undisturbed copy. MLflow may know one open run of a stage at any time, as a killed run is continued, and none in the
end.
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

KILLED = (
    *("scenes", "parser@rect", "decision@rect-plain", "fid_stats@rect", "blobgan_pretrain@rect", "blobgan@rect"),
    *("encoder_pretrain@rect", "encoder@rect", "invert@rect", "explain@rect-basic", "evaluate@rect", "truth@rect"),
)
# What they need beside each other, and nobody kills.
HELPERS = {
    "encoder_pretrain@rect": ("decision@rect-biased", "decision@rect-night", "decision@rect-verge"),
    "evaluate@rect": ("explain@rect-targeted", "explain@rect-diverse"),
}
LAUNCH = 0.3  # share of that time in which DVC and the imports are, more or less
RWLOCK, LOCK = ".dvc/tmp/rwlock", "dvc.lock"
LOOK = 0.25  # seconds between two looks at how much it has taken: looking takes time itself


def undisturbed(folder: Path, stage: str) -> float:
    """Run a stage; the processor's seconds that it takes, DVC's included."""
    for helper in HELPERS.get(stage, ()):
        dvc(folder, "repro", "--single-item", helper)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    dvc(folder, "repro", "--single-item", stage)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def disturbed(folder: Path, stage: str, kills: int, seconds: float, moment: random.Random) -> tuple[int, int]:
    """Kill a stage so many times, and let it end.

    The largest number of runs that were open at once, and how many kills came after the stage had told MLflow of one.
    """
    for helper in HELPERS.get(stage, ()):
        dvc(folder, "repro", "--single-item", helper)
    hits = left_open = within = 0
    lock = (folder / LOCK).read_text() if (folder / LOCK).exists() else None
    while hits < kills:
        process = start(folder, "repro", "--single-item", "--force", stage)
        said: list[str] = []
        if killed(process, moment.uniform(LAUNCH * seconds, seconds), said):
            hits += 1
            mend(folder / RWLOCK)
            check_out(folder / LOCK, lock)
            found = len(open_runs(folder, stage))
            left_open, within = max(left_open, found), within + bool(found)
        else:
            assert process.returncode == 0, said[-1]
    dvc(folder, "repro", "--single-item", "--force", stage)
    return left_open, within


def mend(file: Path) -> None:
    """Remove DVC's own note of who reads and writes what if it was killed while it wrote it, as a person must."""
    try:
        json.loads(file.read_text())
    except FileNotFoundError:
        return
    except ValueError:
        print(f"DVC was killed while it wrote {RWLOCK}: removed", flush=True)
        file.unlink()


def check_out(file: Path, known: str | None) -> None:
    """Bring dvc.lock back, as `git checkout dvc.lock` does: DVC empties it first, and may be killed before it wrote."""
    text = file.read_text() if file.exists() else None
    if known is None and text is not None and not text.endswith("\n"):
        file.unlink()
    elif known is not None and (text is None or len(text) < len(known)):
        file.write_text(known)
    else:
        return
    print(f"DVC was killed while it wrote {LOCK}: brought back", flush=True)


def killed(process: subprocess.Popen[str], seconds: float, said: list[str]) -> bool:
    """Whether DVC was killed, with all that it started, after so many of the processor's seconds.

    Else it had ended, and what it said goes into `said`.
    """
    while process.poll() is None:
        if taken(process.pid) >= seconds:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return True
        time.sleep(LOOK)
    said.append("".join(process.communicate())[-2000:])
    return False


def taken(number: int) -> float:
    """The processor's seconds that a process and its children have taken, those that have ended included."""
    total = 0.0
    with suppress(psutil.Error):
        parent = psutil.Process(number)
        for process in (parent, *parent.children(recursive=True)):
            with suppress(psutil.Error):
                total += sum(process.cpu_times()[:4])  # user, system, children's user and system
    return total


def hashes(folder: Path, stage: str) -> dict[str, str]:
    """The MD5 of each output of a stage that DVC keeps; measures, plots and models alike."""
    outs = yaml.safe_load((folder / "dvc.lock").read_text())["stages"][stage]["outs"]
    return {out["path"]: out["md5"] for out in outs}


def open_runs(folder: Path, stage: str) -> list[str]:
    """The states of a stage's MLflow runs that did not come to their end."""
    from mlflow import MlflowClient

    name, _, item = stage.partition("@")
    setup, _, variant = item.partition("-")
    client = MlflowClient(f"sqlite:///{folder}/mlruns/mlflow.db")
    experiment = client.get_experiment_by_name(name)
    found = client.search_runs([experiment.experiment_id]) if experiment else []
    tags = {"setup": setup or "all", **({"variant": variant} if variant else {})}
    states = [run.info.status for run in found if tags.items() <= run.data.tags.items()]
    return [state for state in states if state != "FINISHED"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10, help="of each stage, at least")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("stages", nargs="*", default=KILLED, help="all that can be killed, if none is given")
    given = parser.parse_args()
    order = tuple(stage for stage in KILLED if stage in given.stages)
    last = KILLED.index(order[-1]) + 1
    moment = random.Random(given.seed)
    place = Path(tempfile.mkdtemp(prefix="blobex-chaos-"))
    calm, wild = (copy_project(place / name, "smoke") for name in ("calm", "wild"))
    wrong = []
    for stage in KILLED[:last]:
        kills, seconds = given.kills if stage in order else 0, undisturbed(calm, stage)
        left_open, within = disturbed(wild, stage, kills, seconds, moment)
        differing = [path for path, md5 in hashes(calm, stage).items() if hashes(wild, stage).get(path) != md5]
        states = open_runs(wild, stage)
        fine = not differing and not states and left_open <= 1
        faults = f"differing: {differing}, runs that did not end: {states}, open at once: {left_open}"
        verdict = "the same bytes, one run continued" if fine else faults
        print(f"{stage}, {seconds:.0f} s: {kills} kills, {within} of them in an open run; {verdict}", flush=True)
        wrong += [] if fine else [stage]
    if wrong:
        raise SystemExit(f"not as if nothing had happened: {', '.join(wrong)} (see {place})")
    shutil.rmtree(place)
    print(f"{len(order)} stages, {given.kills} kills each: all outputs as if nothing had happened")


if __name__ == "__main__":
    main()
