"""Render the synthetic road world in BDD100K's and BDD-OIA's formats: data/scenes."""

from __future__ import annotations

import dataclasses
import shutil

from tqdm import tqdm

from blobex import tracking
from blobex.config.params import Params
from blobex.scenes.write import DatasetCounts, write_dataset
from blobex.stages import common


def main(params: Params) -> None:
    """Write all sets and splits; what an earlier run left goes first."""
    root, options = common.DATA / "scenes", params.scenes
    counts = DatasetCounts(**{field.name: getattr(options, field.name) for field in dataclasses.fields(DatasetCounts)})
    with tracking.run(params, "scenes", "all") as tracker:
        shutil.rmtree(root, ignore_errors=True)
        root.parent.mkdir(parents=True, exist_ok=True)
        with tqdm(total=sum(dataclasses.astuple(counts)), unit="scene", disable=None) as bar:
            write_dataset(root, counts, options.height, options.seed, lambda done, _: bar.update(done - bar.n))
        tracker.log_artifact(root / "scenes.json")


if __name__ == "__main__":
    common.run_stage(main)
