"""Render the synthetic road world in BDD100K's and BDD-OIA's formats: data/scenes, told by data/scenes.json."""

from __future__ import annotations

from blobex.config.params import Params
from blobex.core.files import whole_folder
from blobex.datasets.manifest import manifest_path, render_scenes, write_manifest
from blobex.stages import common
from blobex.tracking import runs as tracking


def main(params: Params) -> None:
    """Write all sets and splits; what an earlier run left goes when they stand."""
    root = common.DATA / "scenes"
    with tracking.run(params, "scenes", "all") as tracker:
        with whole_folder(root) as new:
            render_scenes(new, params.scenes)
        write_manifest(root, params.scenes)
        tracker.log_artifact(manifest_path(root))


if __name__ == "__main__":
    common.run_stage(main)
