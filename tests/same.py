"""Compare what the package computes with what it computed at another commit, file by file.

    python tests/same.py BASE            # HEAD against BASE: exits with 1 and names the files that differ
    python tests/same.py --record A.json # hashes of HEAD's results alone
    python tests/same.py BASE --base-record A.json

Both commits are cloned into a temporary folder. In each, the reference models explain four road scenes in every
variant, and every stage of the smoke profile runs, with 20 training steps of each network. Only commands and parameters
are used, so that the inside of the package may change freely. Each run has one thread: sums are taken in one order.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
SETUPS = ("square", "rect")
VARIANTS = ("basic", "targeted", "diverse")
SCENES = 4
STEPS = 20
STAGES = (
    "parser {setup}",
    "decision {setup} plain",
    "decision {setup} biased",
    "fid_stats {setup}",
    "blobgan_pretrain {setup}",
    "blobgan {setup}",
    "encoder_pretrain {setup}",
    "encoder {setup}",
    "witness {setup}",
    "invert {setup}",
    "explain {setup} basic",
    "explain {setup} targeted",
    "explain {setup} diverse",
    "evaluate {setup}",
    "control {setup}",
    "truth {setup}",
)


def main() -> int:
    options = arguments()
    now = record("HEAD", options.jobs)
    if options.record:
        options.record.write_text(json.dumps(now, indent=1) + "\n")
        print(f"{len(now)} files, {options.record}")
        return 0
    base = json.loads(options.base_record.read_text()) if options.base_record else record(options.base, options.jobs)
    different = sorted(name for name in base.keys() | now.keys() if base.get(name) != now.get(name))
    for name in different:
        state = "differs" if name in base and name in now else "is new" if name in now else "is missing"
        print(f"{name} {state}")
    print(f"{len(base) - len(base.keys() & set(different))} of {len(base)} files of {options.base} are the same")
    return bool(different)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", nargs="?", default="HEAD", help="commit to compare HEAD with")
    parser.add_argument("--record", type=Path, help="write the hashes of HEAD's results and compare nothing")
    parser.add_argument("--base-record", type=Path, help="hashes that --record wrote at BASE")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, each of one thread")
    return parser.parse_args()


def record(commit: str, jobs: int) -> dict[str, str]:
    """Hashes of all files that the commands write at a commit, by name."""
    with tempfile.TemporaryDirectory(prefix="same-") as folder:
        clone = Path(folder) / "blobex"
        git = ["git", "clone", "--quiet", str(ROOT), str(clone)]
        subprocess.run(git, check=True)
        sha = subprocess.run(
            ["git", "rev-parse", commit], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout.strip()
        subprocess.run(["git", "checkout", "--quiet", "--detach", sha], cwd=clone, check=True)
        smoke = Path(folder) / "smoke"
        subprocess.run(["cp", "-r", str(clone), str(smoke)], check=True)
        with ThreadPoolExecutor(jobs) as pool:
            for each in [pool.submit(explain, clone), pool.submit(train, smoke)]:
                each.result()
        return hashes(clone, "explained") | hashes(smoke, "data", "models", "reports")


def explain(clone: Path) -> None:
    """Explain scenes with the reference models, in all variants."""
    run(clone, "dvc", "pull", "--quiet", "--allow-missing")
    run(clone, "blobex", "scenes", "photos")
    photos = sorted(str(path.relative_to(clone)) for path in (clone / "photos").glob("*.[jp]*g"))[:SCENES]
    actions = [word for action in ("forward", "stop", "left", "right") for word in ("--attribute", action)]
    for setup in SETUPS:
        for variant in VARIANTS:
            out = f"explained/{setup}-{variant}"
            run(clone, "blobex", "explain", *photos, "--setup", setup, "--variant", variant, *actions, "--out", out)


def train(clone: Path) -> None:
    """Run every stage of the smoke profile, with a few more training steps."""
    run(clone, "make", "--silent", "--old-file=.venv/ready", "profile", "PROFILE=smoke")  # in this environment
    params = yaml.safe_load((clone / "params.yaml").read_text())
    for name in {"parser", "decision", "control", "blobgan", "encoder_pretrain", "encoder"} & params.keys():
        params[name]["training"]["steps"] = STEPS
    for name in ("decision", "reading"):
        params["witness"][name]["training"]["steps"] = STEPS
    for name in ("training", "layout"):
        params["blobgan_pretrain"][name]["steps"] = STEPS
    params["run"]["tracking_uri"] = "none"
    (clone / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    stages = ["scenes", *(stage.format(setup=setup) for setup in SETUPS for stage in STAGES)]
    for stage in stages:
        name, *words = stage.split()
        if not (clone / "blobex" / "stages" / f"{name}.py").is_file():  # a stage that BASE lacks
            continue
        run(clone, sys.executable, "-m", f"blobex.stages.{name}", *words)


def run(clone: Path, *command: str) -> None:
    environment = os.environ | {
        "PYTHONPATH": str(clone),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    print(" ".join(command), file=sys.stderr, flush=True)
    done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")


def hashes(clone: Path, *folders: str) -> dict[str, str]:
    """SHA-256 of each file in some folders, of settings without the hash of the code."""
    files = (path for folder in folders for path in sorted((clone / folder).rglob("*")) if path.is_file())
    names = {path.relative_to(clone): path for path in files}
    skipped = {"store", "checkpoints", "cache"}
    return {
        str(name): hashlib.sha256(content(path)).hexdigest()
        for name, path in names.items()
        if not skipped & set(name.parts)
    }


def content(path: Path) -> bytes:
    if path.name != "settings.json":
        return path.read_bytes()
    settings = json.loads(path.read_text())
    return json.dumps({name: value for name, value in settings.items() if name != "code"}).encode()


if __name__ == "__main__":
    sys.exit(main())
