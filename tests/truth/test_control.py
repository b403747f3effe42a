"""The truth of explanations of the brake: the questions, their evaluation, and the benchmark with a control model."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import torch
from worlds.truth_project import truth_project

from blobex.networks import weights
from blobex.networks.control import ControlModel
from blobex.truth.benchmark import benchmark
from blobex.truth.control import brake_questions
from blobex.truth.result_files import metrics, table


def test_questions_ask_for_the_other_side_of_half() -> None:
    questions = brake_questions(torch.tensor([[0.9, 0.1], [0.0, 0.75], [-1.0, 0.5]]))
    assert questions.before == ("brake 0.1", "brake 0.75", "brake 0.5")
    assert questions.after == ("brake >= 0.5", "brake <= 0.5", "brake <= 0.5")
    target = questions.target
    assert target.column.tolist() == [1, 1, 1]
    assert target.low.tolist() == [0.5, -math.inf, -math.inf] and target.high.tolist() == [math.inf, 0.5, 0.5]
    assert not (target.margin(torch.tensor([[0.9, 0.1], [0.0, 0.75], [-1.0, 0.5]])) > 0).any()
    assert (target.margin(torch.tensor([[0.9, 0.6], [0.0, 0.2], [-1.0, 0.2]])) > 0).all()


def test_benchmark_judges_the_control_model(tmp_path: Path) -> None:
    params = truth_project(tmp_path, methods=["ours"])
    torch.manual_seed(0)
    model = ControlModel(32, 64).eval()
    weights.save(tmp_path / "models/control/rect", "control", {"setup": "rect", **model.config}, model)
    params = dataclasses.replace(params, truth=dataclasses.replace(params.truth, rules=["biased"]))
    found = benchmark(params, "rect", tmp_path / "models")
    rows = found.rows["control"]["ours"]
    assert [(row.rule, row.attribute) for row in rows] == [("control", "brake")] * 2
    assert {row.to_class for row in rows} <= {"brake >= 0.5", "brake <= 0.5"}
    for row in rows:
        assert row.to_allowed == (row.to_class == "brake <= 0.5")
        assert row.recall is None or row.to_allowed  # only a brake that is released has causes
    assert metrics(found)["control_ours_questions"] == 2
    assert "control: a regression: brake >= 0.5 or brake <= 0.5" in table(found)
    assert found.examples["control"].dtype == np.uint8 and "control" not in found.ranks.get("plain", {})
    assert benchmark(params, "rect", tmp_path / "models").rows == found.rows
