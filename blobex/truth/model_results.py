"""Results about one model, cached so that a stopped benchmark resumes and processes can share the models."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from blobex.core.code_state import code_digest
from blobex.core.errors import BlobexError
from blobex.core.files import read_json, whole_folder, write_text
from blobex.datasets.images import load_image, write_png
from blobex.explain.record_files import DAMAGES
from blobex.truth.evaluation import EvaluatedAnswer

ROWS, EXAMPLES = "rows.json", "examples.png"
CODE = Path(__file__).with_name("benchmark.py")  # reaches all code that computes results


@dataclass(frozen=True)
class ModelResults:
    """The evaluated answers about one model."""

    rows: dict[str, list[EvaluatedAnswer]]  # by method
    examples: np.ndarray  # uint8 (H,W,3)

    def write(self, folder: Path) -> None:
        """Write the results into a folder, whole or not at all."""
        with whole_folder(folder) as new:
            rows = {method: [row.as_dict() for row in answers] for method, answers in self.rows.items()}
            write_text(new / ROWS, json.dumps(rows))
            write_png(new / EXAMPLES, self.examples)

    @classmethod
    def read(cls, folder: Path) -> ModelResults:
        """Read results. Raises BlobexError or one of `record_files.DAMAGES` if they are missing or damaged."""
        rows = read_json(folder / ROWS)
        evaluated = {method: [EvaluatedAnswer(**row) for row in answers] for method, answers in rows.items()}
        return cls(evaluated, load_image(folder / EXAMPLES))


def load_or_compute(folder: Path, name: str, inputs: object, compute: Callable[[], ModelResults]) -> ModelResults:
    """Return cached results, or compute and cache them if they are missing, damaged or outdated.

    Args:
        folder: cache folder.
        name: name of the model.
        inputs: everything that the results depend on besides the code, as JSON values.
        compute: function that computes the results.
    """
    digest = hashlib.sha256(json.dumps([inputs, code_digest(CODE)], sort_keys=True).encode()).hexdigest()[:12]
    path = folder / f"{name}-{digest}"
    with suppress(BlobexError, *DAMAGES):
        return ModelResults.read(path)
    results = compute()
    results.write(path)
    return results
