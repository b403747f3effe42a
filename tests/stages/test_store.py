"""The store of weights: it holds the outputs that dvc.lock names, nothing else, and is small enough for git."""

import hashlib
import json

import yaml
from imports import ROOT

STORE = ROOT / "models" / "store" / "files" / "md5"
MAX_BYTES = 80e6


def stored(md5):
    return STORE / md5[:2] / md5[2:]


def test_store_holds_every_output_and_nothing_else():
    stages = yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"]
    paths = {out["md5"]: out["path"] for stage in stages.values() for out in stage.get("outs", ())}
    assert paths
    for md5 in [md5 for md5 in paths if md5.endswith(".dir")]:
        entries = json.loads(stored(md5).read_text())
        paths |= {entry["md5"]: f"{paths[md5]}/{entry['relpath']}" for entry in entries}
    files = [path for path in STORE.rglob("*") if path.is_file()]
    assert {path.parent.name + path.name for path in files} == set(paths)
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES
    for path in files:
        assert hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() == (path.parent.name + path.name)[:32]
