"""Runs of the results that come with the repository, rebuilt from what git and DVC store of them.

A clone has no MLflow database. Of each stage in the committed dvc.lock whose results are here, unchanged, one run is
rebuilt: parameters and hashes from dvc.lock, numbers from metrics.json, images and tables from reports/. Loss curves
and durations are not stored, so these runs have none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from blobex.config.data import Run
from blobex.config.read import flatten
from blobex.core.errors import BlobexError
from blobex.core.files import read_json
from blobex.core.processes import locked
from blobex.tracking.places import database
from blobex.tracking.store import MODEL_TRAINING, artifact_location, connect, experiment_of
from blobex.tracking.tracker import MlflowTracker
from blobex.tracking.versions import COMMIT, SOURCE, git

LOCK = "dvc.lock"
ORIGIN = "blobex.rebuilt_from"  # tag of the runs of this module: the hash of the stage's entry in dvc.lock
NOTE = (
    "Rebuilt from the results that DVC stores: parameters and hashes from `dvc.lock`, numbers from `metrics.json`. "
    "Loss curves and durations were not stored."
)
SHOWN = ("samples.png", "snapshot.png", "results/snapshot_0.png")  # images, beside metrics.json
FILES = ("metrics.json", "measures.json", "config.yaml", "table.txt")


@dataclass(frozen=True)
class Result:
    """A stage in dvc.lock."""

    name: str  # such as explain@square-basic
    entry: Mapping[str, Any]

    @property
    def stage(self) -> str:
        return self.name.partition("@")[0]

    @property
    def tags(self) -> dict[str, str]:
        """The tags that a run of this stage has, too."""
        setup, _, variant = self.name.partition("@")[2].partition("-")
        return {"setup": setup or "all", **({"variant": variant} if variant else {})}

    @property
    def outputs(self) -> dict[str, str]:
        """The MD5 of each output by its path."""
        return {out["path"]: str(out["md5"]) for out in self.entry["outs"]}

    @property
    def params(self) -> dict[str, Any]:
        return flatten(dict(self.entry.get("params", {}).get("params.yaml", {})), "")

    @property
    def metrics_file(self) -> Path | None:
        """The path of metrics.json if it is here as recorded."""
        path, md5 = next(
            ((Path(out), md5) for out, md5 in self.outputs.items() if out.endswith("/metrics.json")), (None, "")
        )
        return path if path and path.is_file() and hashlib.md5(path.read_bytes()).hexdigest() == md5 else None

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.entry, sort_keys=True).encode()).hexdigest()[:32]


def add_reference_runs(settings: Run) -> int:
    """Add the runs of committed results that the store lacks; return their number. Existing runs are left alone.

    A result lacks a run unless the store has, or had before it was deleted, its rebuilt run, or a run of that stage
    with the same metrics.

    Raises:
        BlobexError: if the store cannot be used, or dvc.lock or a result is damaged.
    """
    results = [result for result in committed_results() if result.metrics_file]
    if not results:
        return 0
    client, count = connect(settings.tracking_uri, settings.s3_endpoint), 0
    default = client.get_experiment_by_name("Default")  # MLflow's own, for language models unless it is told otherwise
    if default is not None and default.lifecycle_stage == "active":
        for key, value in MODEL_TRAINING.items():
            client.set_experiment_tag(default.experiment_id, key, value)
    with locked(database(settings.tracking_uri).parent / ".reference.lock"):
        for result in reversed(results):  # pages list the newest experiment first
            experiment = experiment_of(client, result.stage, artifact_location(settings, result.stage))
            if not _is_known(client, experiment, result):
                _add(client, experiment, result)
                count += 1
    return count


def committed_results() -> list[Result]:
    """Return the stages of the committed dvc.lock, in its order; none outside of a git repository."""
    text = git("show", f"HEAD:./{LOCK}")
    if text == "none":
        return []
    try:
        stages = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))["stages"]
        results = [Result(str(name), entry) for name, entry in stages.items()]
        return [result for result in results if result.outputs]
    except (yaml.YAMLError, AttributeError, LookupError, TypeError) as error:
        raise BlobexError(f"the committed {LOCK} is not what DVC writes: run `dvc repro` and commit it") from error


def _is_known(client: Any, experiment: str, result: Result) -> bool:
    from mlflow.entities import ViewType

    wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in result.tags.items())
    metrics, known = _metrics(result), False
    for run in client.search_runs([experiment], wanted, run_view_type=ViewType.ALL):
        rebuilt, deleted = run.data.tags.get(ORIGIN), run.info.lifecycle_stage == "deleted"
        if rebuilt and run.info.status == "RUNNING":  # its process was stopped
            if not deleted:
                client.delete_run(run.info.run_id)
            continue
        known |= rebuilt == result.digest or (not deleted and metrics.items() <= run.data.metrics.items())
    return known


def _metrics(result: Result) -> dict[str, float]:
    try:
        return {str(key): float(value) for key, value in read_json(result.metrics_file or Path()).items()}
    except (OSError, ArithmeticError, AttributeError, TypeError, ValueError) as error:
        raise BlobexError(f"{result.metrics_file} is damaged: run `dvc checkout`") from error


def _add(client: Any, experiment: str, result: Result) -> None:
    """Add one run."""
    commit, seconds = (git("log", "-1", f"--format={field}", "--", LOCK) for field in ("%H", "%ct"))
    start = int(seconds) * 1000
    command = str(result.entry.get("cmd", ""))
    tags = {
        **result.tags,
        ORIGIN: result.digest,
        COMMIT: commit,
        SOURCE: command,
        "mlflow.source.type": "PROJECT",
        "mlflow.note.content": NOTE,
    }
    tags |= {f"dvc.md5.{path}": md5 for path, md5 in result.outputs.items()}
    name = "-".join([result.stage, *result.tags.values(), "reference"])
    run_id = str(client.create_run(experiment, start, tags, name).info.run_id)
    tracker, folder = MlflowTracker(client, run_id), (result.metrics_file or Path()).parent
    tracker.log_params(result.params)
    tracker.log_metrics(_metrics(result))
    for path, md5 in (
        (dep["path"], dep["md5"]) for dep in result.entry.get("deps", []) if dep["path"].endswith(".json")
    ):
        tracker.log_dataset(name=Path(path).stem, digest=str(md5)[:36], source=path)
    for file in [folder / name for name in FILES]:
        if file.is_file():
            tracker.log_artifact(file)
    _log_reports(tracker, folder)
    client.set_terminated(run_id, "FINISHED", start)


def _log_reports(tracker: MlflowTracker, folder: Path) -> None:
    """Log the images and the table of explanations that a stage wrote beside its metrics."""
    import numpy as np
    import pandas as pd
    from PIL import Image

    for file in (folder / name for name in SHOWN):
        if file.is_file():
            with Image.open(file) as image:
                tracker.log_image(file.stem.partition("_")[0], np.asarray(image.convert("RGB")), 0)
    table = folder / "results" / "explanations.parquet"
    if table.is_file():
        rows = json.loads(pd.read_parquet(table).to_json(orient="records"))
        tracker.log_table({key: [row[key] for row in rows] for key in rows[0]} if rows else {}, "explanations.json")
