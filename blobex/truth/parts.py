"""Parts of the benchmark, each about one model, kept as soon as they are done.

A run that was stopped goes on with the first part that is missing, and processes that share the work leave theirs here
for each other.
"""

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
from blobex.core.files import read_json, whole_file, whole_folder
from blobex.datasets.images import load_image, write_png
from blobex.explain.record_files import DAMAGES
from blobex.truth.judge import Row

ROWS, SHEET = "rows.json", "examples.png"
CODE = Path(__file__).with_name("benchmark.py")  # all code that computes a part


@dataclass(frozen=True)
class Part:
    """What was found about one model."""

    rows: dict[str, list[Row]]  # by method
    sheet: np.ndarray  # examples, uint8 (H,W,3)

    def write(self, folder: Path) -> None:
        """Into a folder that appears whole."""
        with whole_folder(folder) as new:
            rows = {method: [row.as_dict() for row in some] for method, some in self.rows.items()}
            with whole_file(new / ROWS) as temporary:
                temporary.write_text(json.dumps(rows), encoding="utf-8")
            write_png(new / SHEET, self.sheet)

    @classmethod
    def read(cls, folder: Path) -> Part:
        """What was written. What a damaged file raises is not known."""
        rows = {method: [Row(**row) for row in some] for method, some in read_json(folder / ROWS).items()}
        return cls(rows, load_image(folder / SHEET))


def kept(folder: Path, name: str, made_of: object, find: Callable[[], Part]) -> Part:
    """A part as it was written, or else found now and written.

    `made_of` is all that the part depends on, as JSON holds it, beside the code: what other code found is not taken.
    """
    mark = hashlib.sha256(json.dumps([made_of, code_digest(CODE)], sort_keys=True).encode()).hexdigest()[:12]
    place = folder / f"{name}-{mark}"
    with suppress(BlobexError, *DAMAGES):  # what is damaged is found anew
        return Part.read(place)
    part = find()
    part.write(place)
    return part
