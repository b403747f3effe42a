"""A folder in which the truth benchmark runs in seconds: random networks, a few scenes, and params.yaml."""

from pathlib import Path

import yaml
from worlds.tiny_models import save_models

from blobex.config.params import Params
from blobex.config.read import load_params
from blobex.scenes.write import DatasetCounts, write_dataset


def truth_project(folder: Path, **options: object) -> Params:
    """Write the folder; `options` replace keys of the section truth."""
    save_models(folder)
    write_dataset(folder / "scenes", DatasetCounts(1, 1, 1, 1, 6, 1, 3), height=32, seed=0)
    tree = yaml.safe_load((folder / "params.yaml").read_text())
    tree["data"] |= {"root": str(folder / "scenes"), "cache": None}
    tree["invert"]["rect"] |= {"steps": 2, "decision_steps": 1}
    tree["truth"] |= {"rules": ["biased"], "methods": ["ours", "pixels", "random"]}
    tree["truth"] |= {"images": 2, "examples": 3, "seeds": 1, "phrases": 4, "fresh_scenes": 2, **options}
    tree["truth"]["pixels"] |= {"steps": 2}
    (folder / "params.yaml").write_text(yaml.safe_dump(tree))
    return load_params(folder / "params.yaml")
