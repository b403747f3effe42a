"""Render the synthetic road world as BDD100K and BDD-OIA: data/scenes, with its manifest data/scenes.json."""

from __future__ import annotations

from blobex.config.params import Params
from blobex.core.files import whole_folder
from blobex.datasets.manifest import manifest_path, render_scenes, write_manifest
from blobex.stages import common
from blobex.tracking import runs as tracking


def main(params: Params) -> None:
    """Render all sets and splits; they replace those of an earlier run at the end."""
    root = common.DATA / "scenes"
    with tracking.run(params, "scenes", "all") as tracker:
        with whole_folder(root) as new:
            render_scenes(new, params.scenes)
        write_manifest(root, params.scenes)
        tracker.log_artifact(manifest_path(root))


if __name__ == "__main__":
    common.run_stage(main)
