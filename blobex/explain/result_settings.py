"""What results depend on besides the images: stored with them, and compared before they are reused."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from blobex.config.params import Params
from blobex.core.code_state import code_digest
from blobex.core.device import resolve_precision
from blobex.decisions.decision import Decision
from blobex.decisions.identity import Identity
from blobex.explain.request import Plan
from blobex.perception.regions import is_name, region_mask

CODE = Path(__file__).with_name("explainer.py")  # with all that it imports


def result_settings(params: Params, setup: str, device: torch.device, plan: Plan, gif: bool) -> dict[str, Any]:
    """Return parameters, plan and code as JSON values; a mask is represented by the digest of its pixels."""
    values, size, only = asdict(params), params.setup(setup), plan.request.only
    mask = None if only is None or is_name(only) else region_mask(only, size.height, size.width)
    return {
        "setup": setup,
        "size": values["setups"][setup],
        "request": plan.settings(),
        "mask": None if mask is None else hashlib.sha256(mask.numpy().tobytes()).hexdigest(),
        "invert": values["invert"][setup],
        "search": values["search"]["mode"],
        "precision": resolve_precision(params.run.precision, device),
        "seed": values["run"]["seed"],
        "perceptual": values["data"]["perceptual"],
        "device": device.type,
        "gif": gif,
        "code": code_digest(CODE),
    }


def decision_settings(decision: Decision, identity: Identity) -> dict[str, Any]:
    """Return the explained model as JSON values: what it is called, how it is read, and what it computes."""
    return {
        "name": decision.name,
        "kind": decision.kind,
        "outputs": list(decision.outputs),
        "input": None if decision.input is None else asdict(decision.input),
        **asdict(identity),
    }
