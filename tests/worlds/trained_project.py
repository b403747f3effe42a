"""A folder as the pipeline leaves it: tiny networks, their measures, an evaluation and dvc.lock."""

import json
import subprocess

import yaml
from worlds.tiny_models import save_models

MEASURES = {
    "blobgan/rect": {"images_seen": 320},
    "encoder_pretrain/rect": {"w_error": 0.5},
    "encoder/rect": {"pd_parser": 1.23456789, "l2": 0.0625},
    "parser/rect": {"semantic_iou": 0.3125, "box_ap50": 0.46053},
    "decision/rect/plain": {"accuracy": 0.929, "f1": 0.8765},
    "decision/rect/biased": {"accuracy": 0.91},
    "witness/rect": {"accuracy_lowest": 0.985},
}
EVALUATE = {"flip_rate": 0.75, "flip_rate_low": 0.5, "flip_rate_high": 0.875, "flip_rate_count": 16, "fd_parser": 2.5}
BLOBGAN = "models/blobgan/rect/weights.safetensors"
NETWORK = ("config.yaml", "weights.safetensors")


def stage(folder, params, deps=()):
    """An entry of dvc.yaml without a command to run."""
    outputs = {"metrics": [f"{folder}/metrics.json"]}
    if folder.startswith("models/"):
        outputs["outs"] = [f"{folder}/{name}" for name in NETWORK]
    return {"cmd": "true", "deps": list(deps), "params": ["run.seed", *params]} | outputs


STAGES = {
    "parser@rect": stage("models/parser/rect", ["parser"], ["data/scenes.json"]),
    "decision@rect-plain": stage("models/decision/rect/plain", ["decision.training"]),
    "decision@rect-biased": stage("models/decision/rect/biased", ["decision.training"]),
    "blobgan@rect": stage("models/blobgan/rect", ["blobgan"]),
    "encoder_pretrain@rect": stage("models/encoder_pretrain/rect", ["encoder_pretrain"], [BLOBGAN]),
    "encoder@rect": stage("models/encoder/rect", ["encoder"], [BLOBGAN]),
    "witness@rect": stage("models/witness/rect", ["witness"], ["data/scenes.json"]),
    "evaluate@rect": stage("reports/evaluate/rect", ["evaluate"], [BLOBGAN]),
}


def pipeline():
    """The content of dvc.yaml, with a matrix for the part of a stage's name behind the @."""
    stages = {}
    for name, entry in STAGES.items():
        base, _, rest = name.partition("@")
        setup, _, variant = rest.partition("-")
        matrix = {"setup": [setup]} | ({"variant": ["plain", "biased"]} if variant else {})
        text = json.dumps(entry).replace(f"/{setup}", "/${item.setup}")
        if variant:
            text = text.replace(f"/{variant}", "/${item.variant}")
        stages[base] = json.loads(text) | {"matrix": matrix}
    return {"stages": stages}


def trained(folder):
    save_models(folder)
    for place, measures in MEASURES.items():
        (folder / "models" / place / "metrics.json").write_text(json.dumps(measures))
    (folder / "reports/evaluate/rect").mkdir(parents=True)
    (folder / "reports/evaluate/rect/metrics.json").write_text(json.dumps(EVALUATE))
    (folder / "data").mkdir()
    (folder / "data/scenes.json").write_text('{"files": 4321, "scenes": {"seed": 77}}')
    (folder / "dvc.yaml").write_text(yaml.safe_dump(pipeline()))
    (folder / ".dvc").mkdir()
    (folder / ".dvc/config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    commit(folder)
    return folder


def commit(folder, *stages):
    """Record the results of stages, or of all, in dvc.lock."""
    subprocess.run(["dvc", "commit", "--force", "--quiet", *stages], cwd=folder, check=True)
