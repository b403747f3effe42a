"""Experiment trackers: one that records nothing, and one that writes to an MLflow run."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from blobex.tracking.store import ALIAS, PATIENCE, held, lost

TABLES = "mlflow.loggedArtifacts"  # tag by which MLflow's pages find tables


class Tracker:
    """Record of one run of one stage; this base class records nothing."""

    run_id: str | None = None

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters by their dotted keys."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log measures by name."""

    def log_image(self, key: str, image: np.ndarray, step: int) -> None:
        """Log a uint8 image (H,W,3); the images of one key form a slider over steps."""

    def log_table(self, columns: Mapping[str, list[Any]], name: str) -> None:
        """Log columns of equal length, with values that JSON can hold, as a table."""

    def log_artifact(self, path: Path) -> None:
        """Copy a file to the run."""


class NullTracker(Tracker):
    """Tracker that records nothing."""


class MlflowTracker(Tracker):
    """MLflow run as a `Tracker`; it continues in a second run if the store is lost (see `store.lost`)."""

    def __init__(self, client: Any, run_id: str, fallback: Callable[[], tuple[Any, str]] | None = None) -> None:
        """Log to `run_id` through `client`; `fallback` opens the client and run that are used once the store is lost.

        Without `fallback`, the exception of a lost store is raised.
        """
        self.run_id = run_id
        self._client, self._current, self._fallback = client, run_id, fallback

    def log_params(self, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        entries = [Param(key, str(value)) for key, value in params.items()]
        self._log(lambda client, run: client.log_batch(run, params=entries, synchronous=True))

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000
        entries = [Metric(key, float(value), now, step or 0) for key, value in metrics.items()]
        self._log(lambda client, run: client.log_batch(run, metrics=entries, synchronous=True))

    def log_text(self, text: str, name: str) -> None:
        self._log(lambda client, run: client.log_text(run, text, name))

    def log_dataset(self, name: str, digest: str, source: str) -> None:
        """Log a data set that DVC versions as an input of the run."""
        from mlflow.entities import Dataset, DatasetInput

        dataset = Dataset(name=name, digest=digest, source_type="dvc", source=source, profile=None, schema=None)
        self._log(lambda client, run: client.log_inputs(run, datasets=[DatasetInput(dataset, tags=[])]))

    def log_image(self, key: str, image: np.ndarray, step: int) -> None:
        self._log(lambda client, run: client.log_image(run, image, key=key, step=step, synchronous=True))

    def log_table(self, columns: Mapping[str, list[Any]], name: str) -> None:
        import pandas as pd

        # MLflow's own log_table appends to a table of that name: rows that are logged again would stand there twice.
        table = pd.DataFrame(columns).to_json(orient="split", index=False)
        tag = json.dumps([{"path": name, "type": "table"}])
        self.log_text(table, name)
        self._log(lambda client, run: client.set_tag(run, TABLES, tag))

    def log_artifact(self, path: Path) -> None:
        self._log(lambda client, run: client.log_artifact(run, str(path)))

    def log_model(
        self,
        model: torch.nn.Module,
        name: str,
        height: int,
        width: int,
        alias: str = ALIAS,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Log a network of images and register it as `name` with an alias, by default that of the newest version."""
        size = height, width
        self._log(lambda client, run: _log_model(client, run, model.eval(), name, size, alias, tags or {}))

    def end(self, status: str) -> None:
        """Close the run as FINISHED, FAILED or KILLED."""
        self._log(lambda client, run: client.set_terminated(run, status))

    def _log(self, call: Callable[[Any, str], object]) -> None:
        begun = time.monotonic()
        while True:
            try:
                call(self._client, self._current)
                return
            except Exception as error:
                if self._fallback is None or not lost(error):
                    raise
                again = held(error) and time.monotonic() - begun < PATIENCE
            if not again:
                break
        # Outside the handler: `lost` would find the server's exception among the causes of any later one.
        (self._client, self._current), self._fallback = self._fallback(), None
        call(self._client, self._current)


def _log_model(
    client: Any,
    run_id: str,
    model: torch.nn.Module,
    name: str,
    size: tuple[int, int],
    alias: str,
    tags: Mapping[str, str],
) -> None:
    import mlflow
    import mlflow.pytorch

    mlflow.set_tracking_uri(client.tracking_uri)
    with mlflow.start_run(run_id=run_id):
        info = mlflow.pytorch.log_model(
            model,
            name=name,
            input_example=np.zeros((2, 3, *size), dtype=np.float32),
            pip_requirements=["torch", "torchvision"],
            registered_model_name=name,
        )
    for key, value in tags.items():
        client.set_model_version_tag(name, info.registered_model_version, key, value)
    client.set_registered_model_alias(name, alias, info.registered_model_version)
