"""Render the synthetic road world as BDD100K and BDD-OIA: data/scenes, with its manifest data/scenes.json."""

from __future__ import annotations

from pathlib import Path

from blobex.config.params import Params
from blobex.core.code_state import code_digest
from blobex.datasets.manifest import draw_anew, manifest_path, write_manifest
from blobex.stages import common
from blobex.tracking import runs as tracking


def main(params: Params) -> None:
    """Draw all sets and splits; they replace those of an earlier run at the end. A stopped run goes on."""
    root = common.DATA / "scenes"
    with tracking.run(params, "scenes", "all") as tracker:
        draw_anew(root, params.scenes, code_digest(Path(__file__)))
        write_manifest(root, params.scenes)
        tracker.log_artifact(manifest_path(root))


if __name__ == "__main__":
    common.run_stage(main)
