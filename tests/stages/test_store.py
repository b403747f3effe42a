"""A clone brings all that `dvc repro` would make: the store holds every output that dvc.lock names, and stays small."""

import hashlib
import json
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
STORE = ROOT / "models" / "store" / "files" / "md5"
LIMIT = 80e6  # bytes


def kept(md5):
    return STORE / md5[:2] / md5[2:]


def test_the_store_holds_every_output_and_nothing_else():
    stages = yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"]
    named = {out["md5"]: out["path"] for stage in stages.values() for out in stage.get("outs", ())}
    assert named
    for md5 in [md5 for md5 in named if md5.endswith(".dir")]:
        listed = json.loads(kept(md5).read_text())
        named |= {entry["md5"]: f"{named[md5]}/{entry['relpath']}" for entry in listed}
    files = [path for path in STORE.rglob("*") if path.is_file()]
    assert {path.parent.name + path.name for path in files} == set(named)
    assert sum(path.stat().st_size for path in files) <= LIMIT
    for path in files:
        assert hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() == (path.parent.name + path.name)[:32]
