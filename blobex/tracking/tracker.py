"""Interface of an experiment tracker, and the tracker that records nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np


class Tracker(Protocol):
    """Record of one run of one stage."""

    @property
    def run_id(self) -> str | None: ...

    def log_params(self, params: Mapping[str, Any]) -> None: ...

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None: ...

    def log_image(self, key: str, image: np.ndarray, step: int) -> None:
        """Log a uint8 image (H,W,3); the images of one key form a slider over steps."""

    def log_table(self, columns: Mapping[str, list[Any]], name: str) -> None:
        """Log columns of equal length, with values that JSON can hold, as a table."""

    def log_artifact(self, path: Path) -> None:
        """Copy a file to the run."""


class NullTracker:
    """Tracker that records nothing."""

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
