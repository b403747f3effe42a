"""What training wants of an experiment tracker. The one that tracks nothing stands here; MLflow's is in tracking.py."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np


class Tracker(Protocol):
    """One run of one stage."""

    @property
    def run_id(self) -> str | None: ...

    def log_params(self, params: Mapping[str, Any]) -> None: ...

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None: ...

    def log_image(self, key: str, image: np.ndarray, step: int) -> None:
        """A uint8 picture (H,W,3) at a step: together they make the image slider of `key`."""

    def log_table(self, columns: Mapping[str, list[Any]], name: str) -> None:
        """Columns of equal length, of values that JSON knows, as a table that the pages show by run."""

    def log_artifact(self, path: Path) -> None: ...


class NullTracker:
    """Tracks nothing."""

    run_id: str | None = None

    def log_params(self, params: Mapping[str, Any]) -> None:
        pass

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        pass

    def log_image(self, key: str, image: np.ndarray, step: int) -> None:
        pass

    def log_table(self, columns: Mapping[str, list[Any]], name: str) -> None:
        pass

    def log_artifact(self, path: Path) -> None:
        pass
