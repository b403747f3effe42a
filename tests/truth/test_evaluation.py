"""Evaluation, ranks and files of the truth benchmark, on explanations that are perfect by construction."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from worlds.true_readings import reading_of
from worlds.truth_project import truth_project

from blobex.cli import main as cli
from blobex.config.params import Params
from blobex.config.read import load_params
from blobex.core.errors import BlobexError
from blobex.counterfactual.questions import build_questions
from blobex.datasets.datamodule import load_planted
from blobex.datasets.images import to_array, to_float
from blobex.perception.reading import scene_of_reading
from blobex.scenes.render import render
from blobex.scenes.rules import ACTIONS, PLAIN, RULES, remove
from blobex.scenes.sample import sample
from blobex.scenes.write import scene_of
from blobex.truth.benchmark import benchmark, held_out
from blobex.truth.evaluation import EvaluatedAnswer, ReadImage, evaluate_answers
from blobex.truth.measures import (
    SUBJECTS,
    detection_over_seeds,
    flips,
    measures,
    names_shortcut,
    phrase_excess,
    shortcut_rank,
    shortcut_scores,
)
from blobex.truth.methods import Answer, Task
from blobex.truth.result_files import metrics, table, write
from blobex.truth.results import summarise

OPTIONS = load_params(Path(__file__).parents[2] / "profiles" / "synthetic.yaml").truth
SCENES = [sample(seed) for seed in range(60)]


class World:
    """Images of known scenes, which are read without error."""

    def __init__(self, rule):
        self.rule, self.scenes = rule, {}

    def show(self, scene) -> np.ndarray:
        image = render(scene, 64).image
        self.scenes[image.tobytes()] = scene
        return image

    def read(self, images) -> list[ReadImage]:
        read_images = []
        for image in images:
            reading = reading_of(self.scenes[image.tobytes()])
            scene = scene_of_reading(reading, image)
            read_images.append(ReadImage(dict(zip(ACTIONS, self.rule.actions(scene), strict=True)), reading, scene))
        return read_images


def refused(rule, action: str, causes: int = 1):
    """Scenes in which exactly `causes` causes refuse an action; those of the shortcut come first."""
    scenes = [scene for scene in SCENES if len(rule.causes(scene, action)) == causes]
    return sorted(scenes, key=lambda scene: not rule.shortcut(scene) & rule.causes(scene, action))


def perfect_rows(rule, scenes, action: str, model=None, method: str = "ours", witness=None) -> list[EvaluatedAnswer]:
    """Evaluated answers that remove a cause; the model decides as `model`, by default as the rule itself."""
    world, model = World(rule), model or rule
    outputs = torch.tensor([[2.0 * value - 1 for value in model.actions(scene)] for scene in scenes])
    questions = build_questions("attributes", ACTIONS, outputs, [ACTIONS.index(action)])
    before = [world.show(scene) for scene in scenes]
    after = [world.show(remove(scene, min(model.causes(scene, action), key=str))) for scene in scenes]
    answers = [Answer(*pair, True) for pair in zip(before, after, strict=True)]
    queries = to_float(torch.from_numpy(np.stack(before)).permute(0, 3, 1, 2))
    names = tuple(str(scene.seed) for scene in scenes)
    task = Task(None, None, names, queries, (action,), questions, None)  # type: ignore[arg-type]
    decide = witness and (lambda images: witness(world, [to_array(image) for image in images]))
    return evaluate_answers(task, method, answers, scenes, rule, world.read, OPTIONS, decide)


@pytest.mark.parametrize("action", ACTIONS)
def test_removing_the_only_cause_is_valid_and_exact(action: str) -> None:
    rows = perfect_rows(PLAIN, refused(PLAIN, action)[:8], action)
    assert len(rows) == 8 and all(row.included and row.valid and row.to_allowed for row in rows)
    visible = [row for row in rows if row.recall is not None]
    assert len(visible) >= 6 and all(row.recall == 1 and row.precision > 0.8 for row in visible)
    assert {row.to_class for row in rows} == {"not stop" if action == "stop" else action}


def true_witness(world: World, images) -> torch.Tensor:
    return torch.tensor([[2.0 * image.allowed[name] - 1 for name in ACTIONS] for image in world.read(images)])


@pytest.mark.parametrize("action", ACTIONS)
def test_a_witness_shares_true_flips_only(action: str) -> None:
    scenes = refused(PLAIN, action)[:5]
    assert [row.witness for row in perfect_rows(PLAIN, scenes, action)] == [None] * 5
    assert all(row.witness for row in perfect_rows(PLAIN, scenes, action, witness=true_witness))
    double = refused(PLAIN, "forward", causes=2)[:5]  # of which one is removed, so only the model is deceived
    rows = perfect_rows(PLAIN, double, "forward", witness=true_witness)
    assert [row.witness for row in rows] == [False] * 5
    found = measures([*rows, dataclasses.replace(rows[0], flipped=False, witness=None)], 0)["witness_flip"]
    assert (found.mean, found.low, found.count) == (0, 0, 5) and 0.3 < found.high < 0.5


def test_removing_one_of_two_causes_is_not_valid() -> None:
    rows = perfect_rows(PLAIN, refused(PLAIN, "forward", causes=2)[:5], "forward")
    assert all(row.included and row.valid is False for row in rows)
    visible = [row for row in rows if row.recall is not None]
    assert visible and all(0.5 <= row.recall <= 1 for row in visible)
    assert min(row.recall for row in visible) == 0.5


def test_validity_is_undefined_where_model_and_rule_disagree() -> None:
    """A model with the night shortcut, evaluated by the plain rule: they disagree at night."""
    night = [scene for scene in SCENES if scene.time == "night" and PLAIN.actions(scene)[2]][:4]
    rows = perfect_rows(PLAIN, night, "left", model=RULES["night"])
    assert night and all(not row.included and row.valid is None for row in rows)
    assert all(row.recall is None for row in rows)  # nothing refuses by the plain rule


@pytest.mark.parametrize(("name", "action"), [("biased", "right"), ("night", "left"), ("verge", "stop")])
def test_removed_shortcut_ranks_first_and_is_absent_from_honest_explanations(name, action) -> None:
    rule = RULES[name]
    scenes = refused(rule, action)[:12]
    rows = perfect_rows(rule, scenes, action)
    honest = perfect_rows(PLAIN, refused(PLAIN, action)[:12], action)
    planted = [row for row in rows if row.planted]
    assert len(planted) >= 3 and not any(row.planted for row in honest)
    for row in planted:
        assert row.valid and any(names_shortcut(name, phrase) for phrase in row.phrases), (row.image, row.phrases)
    found = summarise({"plain": {"ours": honest}, name: {"ours": rows}}, {}, 0)
    place, phrases = found.ranks[name]["ours"]
    assert place is not None and place <= 2 and phrases >= 3
    measured = found.measures[name]["ours"]
    assert measured["shortcut_share"].mean >= len(planted) / len(rows) > measured["honest_share"].mean
    one, other = measured["shortcut_share"].mean, measured["honest_share"].mean
    assert measured["auc_explanations"].mean == pytest.approx(0.5 + (one - other) / 2)  # of scores that are 0 or 1


def test_shortcut_that_is_also_a_plain_cause_is_not_planted() -> None:
    """A vehicle on the left refuses a left turn by the plain rules; the shortcut is about right turns."""
    rule = RULES["biased"]
    scenes = refused(rule, "left")[:4]
    assert all(rule.shortcut(scene) & rule.causes(scene, "left") for scene in scenes)
    assert not any(row.planted for row in perfect_rows(rule, scenes, "left"))


def row(phrases, to_class="right", rule="biased", **changes) -> EvaluatedAnswer:
    attribute = to_class.removeprefix("not ")
    flags = {"flipped": True, "included": True, "valid": True, "agrees": None, "planted": False}
    values = {"recall": None, "precision": None, "phrases": list(phrases)} | flags | changes
    return EvaluatedAnswer(rule, "ours", "a", attribute, to_class, **values)


def test_ranks_by_hand() -> None:
    own = "vehicle on the left removed"
    mine = [row([own, "sky grew"]), row([own]), row([]), row(["sky grew"], "not right")]
    honest = [row(["sky grew"]), row([own], "left"), row(["car"])]
    found = phrase_excess(mine, honest)
    assert found["right: vehicle on the left removed"] == pytest.approx(2 / 3)
    assert found["right: sky grew"] == pytest.approx(1 / 3 - 1 / 2)
    assert found["not right: sky grew"] == 1 and found["left: vehicle on the left removed"] == -1
    assert list(found)[:2] == ["not right: sky grew", "right: vehicle on the left removed"]
    assert shortcut_rank(found, "biased") == 2
    assert shortcut_rank({**found, "not right: sky grew": 2 / 3}, "biased") == 2  # ties get the worst rank
    assert shortcut_rank({f"left: {own}": 0.9, "right: sky grew": 0.1}, "biased") is None  # of another action
    assert shortcut_rank({f"right: {own}": 0.0}, "biased") is None
    assert shortcut_scores(mine, "biased") == [1, 1, 0, 0] and set(SUBJECTS) == set(RULES) - {"plain"}
    assert flips([row([]), row([], flipped=False), row([], "left")], ["right"]) == [row([])]


def test_auc_over_seeds_compares_shares_of_models() -> None:
    own, other = row(["vehicle on the left removed"]), row(["sky grew"])
    found = detection_over_seeds([[own, own], [own, other]], [[other], [], [own, other, other]], "biased")
    assert found["shortcut_share_seeds"].mean == 0.75 and found["honest_share_seeds"].mean == pytest.approx(1 / 5)
    assert (found["auc_seeds"].mean, found["auc_seeds"].count) == (1, 5)


def test_planted_decisions_are_of_the_scenes(tmp_path: Path) -> None:
    params = truth_project(tmp_path)
    for name, rule in RULES.items():
        data = load_planted(params, "rect", "train", name)
        assert data.actions.tolist() == [list(map(float, rule.actions(scene))) for scene in train_scenes(params)]
    real = Path(params.data.root) / "bdd_oia/lastframe"
    for path in real.rglob("*"):
        if path.is_file() and path.suffix == ".json":
            path.write_text(path.read_text().replace("scene-", "photo-"))
    for path in (real / "data").iterdir():
        path.rename(path.with_name(path.name.replace("scene-", "photo-")))
    assert len(load_planted(params, "rect", "train", "biased").actions) == 6
    with pytest.raises(BlobexError, match="rule night needs synthetic scenes, so take plain or biased"):
        load_planted(params, "rect", "train", "night")
    with pytest.raises(BlobexError, match="is not an image of a synthetic scene"):
        held_out(params, "rect", 2)


def train_scenes(params: Params) -> list:
    labels = Path(params.data.root) / "bdd_oia/lastframe/gt_4a_21r/train_25k_images_actions.json"
    return [scene_of(image["file_name"]) for image in json.loads(labels.read_text())["images"]]


def test_command_writes_tables_and_examples(tmp_path: Path, monkeypatch, capsys) -> None:
    truth_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    cli.app(["truth", "--out", "out"], standalone_mode=False)
    text = (tmp_path / "out/table.txt").read_text()
    assert text in capsys.readouterr().out
    assert "biased: no right while something stands near in the left lane" in text and "pixels" in text
    rows = pq.read_table(tmp_path / "out/explanations.parquet").to_pylist()
    assert len(rows) == 2 * 3 * 2 * 4 and {each["rule"] for each in rows} == {"plain", "biased"}
    assert sorted(path.name for path in (tmp_path / "out/examples").iterdir()) == ["biased.png", "plain.png"]
    missing = load_params("params.yaml")
    missing = dataclasses.replace(missing, truth=dataclasses.replace(missing.truth, rules=["night"]))
    with pytest.raises(BlobexError, match="decision rect night` first"):
        benchmark(missing, "rect", Path("models"))


def test_metrics_and_table() -> None:
    own = row(["vehicle on the left removed"], recall=0.5, precision=0.25, agrees=True)
    rows = {"plain": {"ours": [row([], rule="plain")]}, "biased": {"ours": [own, row([], included=False, valid=None)]}}
    found = summarise(rows, {}, 0)
    flat = metrics(found)
    assert flat["biased_ours_questions"] == 2 and flat["biased_ours_excluded"] == 1
    assert flat["biased_ours_validity"] == 1 and flat["biased_ours_validity_count"] == 1
    assert flat["biased_ours_cause_recall"] == 0.5 and flat["biased_ours_cause_precision"] == 0.25
    assert flat["biased_ours_rank"] == 1 and flat["biased_ours_auc_explanations"] == 0.75
    assert flat["biased_ours_flip_validity_allowed"] == 1 and "biased_ours_flip_validity_refused" not in flat
    assert all(np.isfinite(list(flat.values()))) and "plain_ours_rank" not in flat
    assert "1 of 1" in table(found) and "0.50 [0.50, 0.50] 1" in table(found)


@pytest.mark.slow
def test_over_seeds_and_published_from_end_to_end(tmp_path: Path) -> None:
    params = truth_project(tmp_path)
    truth = dataclasses.replace(
        params.truth, methods=["ours", "published"], published_images=1, seeds=2, seed_steps=1, seed_images=2
    )
    params = dataclasses.replace(params, truth=truth)
    found = benchmark(params, "rect", tmp_path / "models")
    assert len(found.rows["biased"]["published"]) == 4 and len(found.rows["biased"]["ours_same"]) == 4
    assert found.measures["biased"]["ours"]["auc_seeds"].count == 4
    assert (tmp_path / "models/truth/rect/biased_1/weights.safetensors").is_file()
    paths = write(found, tmp_path / "out")
    assert all(path.is_file() for path in paths) and "ours, same pictures" in paths[1].read_text()
