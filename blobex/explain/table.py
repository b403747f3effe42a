"""Table of explanations: explanations.parquet, one row per explanation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from blobex.config.explain import Key
from blobex.core.errors import BlobexError
from blobex.core.files import whole_file

TABLE = "explanations.parquet"
SCHEMA = pa.schema(
    [
        ("image", pa.string()),
        ("setup", pa.string()),
        ("attribute", pa.string()),
        ("number", pa.int32()),
        ("from_class", pa.string()),
        ("to_class", pa.string()),
        ("compose", pa.string()),
        ("score_before", pa.float32()),
        ("score_reconstruction", pa.float32()),
        ("score_after", pa.float32()),
        ("score_full", pa.float32()),
        ("verdict", pa.string()),
        ("flipped", pa.bool_()),
        ("flipped_full", pa.bool_()),
        ("failed", pa.bool_()),
        ("reconstruction_agrees", pa.bool_()),
        ("gate", pa.string()),
        ("perceptual", pa.float32()),
        ("l2", pa.float32()),
        ("reconstruction_perceptual", pa.float32()),
        ("reconstruction_l2", pa.float32()),
        ("proximity", pa.float32()),
        ("step", pa.int32()),
        ("changed_blobs", pa.list_(pa.string())),
        ("changed_keys", pa.list_(pa.string())),
        ("words", pa.string()),
        ("sentence", pa.string()),
        *[(f"change_{key}", pa.float32()) for key in get_args(Key)],
    ]
)


def write_table(folder: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write explanations.parquet from the rows of `Explanation.row`."""
    path = folder / TABLE
    with whole_file(path) as temporary:
        pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA), temporary)
    return path


def read_table(folder: Path) -> list[dict[str, Any]]:
    """Read the rows of explanations.parquet; BlobexError if it is missing or damaged."""
    try:
        table = pq.read_table(folder / TABLE)
        if not table.schema.equals(SCHEMA):
            raise pa.ArrowInvalid("other columns")
        return table.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise BlobexError(f"cannot read {folder / TABLE}: run `blobex explain` or `dvc repro explain` first") from error
