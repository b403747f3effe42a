"""Rows, phrases, ranks and files of the truth benchmark, from explanations that are perfect by construction."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from worlds.tiny_models import save_models
from worlds.true_readings import reading_of

from blobex.cli import main as cli
from blobex.config.params import Params
from blobex.config.read import load_params
from blobex.core.errors import BlobexError
from blobex.counterfactual.questions import build_questions
from blobex.datasets.images import to_float
from blobex.datasets.planted import load_planted
from blobex.perception.rule import scene_of_reading
from blobex.scenes.render import render
from blobex.scenes.rules import ACTIONS, PLAIN, RULES, remove
from blobex.scenes.sample import sample
from blobex.scenes.write import DatasetCounts, scene_of, write_dataset
from blobex.stages import common, truth
from blobex.truth.benchmark import assess, benchmark, held_out, seed_measures
from blobex.truth.detection import SUBJECTS, excess, scores, shortcut_rank, speaks_of, told
from blobex.truth.judge import Row, judge
from blobex.truth.reader import Seen
from blobex.truth.task import Answer, Task
from blobex.truth.write import metrics, table, write

OPTIONS = load_params(Path(__file__).parents[2] / "profiles" / "synthetic.yaml").truth
SCENES = [sample(seed) for seed in range(60)]


class World:
    """Pictures of known scenes, which are read without fault."""

    def __init__(self, rule):
        self.rule, self.known = rule, {}

    def show(self, scene) -> np.ndarray:
        picture = render(scene, 64).image
        self.known[picture.tobytes()] = scene
        return picture

    def read(self, pictures) -> list[Seen]:
        seen = []
        for picture in pictures:
            reading = reading_of(self.known[picture.tobytes()])
            scene = scene_of_reading(reading, picture)
            seen.append(Seen(dict(zip(ACTIONS, self.rule.actions(scene), strict=True)), reading, scene))
        return seen


def refused(rule, action: str, causes: int = 1):
    """Scenes in which exactly so many causes refuse an action; those of the shortcut come first."""
    found = [scene for scene in SCENES if len(rule.causes(scene, action)) == causes]
    return sorted(found, key=lambda scene: not rule.shortcut(scene) & rule.causes(scene, action))


def perfect_rows(rule, scenes, action: str, model=None, method: str = "ours") -> list[Row]:
    """The rows about a model that decides as `model` (as the rule itself, if None), whose cause is taken away."""
    world, model = World(rule), model or rule
    said = torch.tensor([[2.0 * value - 1 for value in model.actions(scene)] for scene in scenes])
    questions = build_questions("attributes", ACTIONS, said, [ACTIONS.index(action)])
    before = [world.show(scene) for scene in scenes]
    after = [world.show(remove(scene, min(model.causes(scene, action), key=str))) for scene in scenes]
    answers = [Answer(*pair, True) for pair in zip(before, after, strict=True)]
    queries = to_float(torch.from_numpy(np.stack(before)).permute(0, 3, 1, 2))
    names = tuple(str(scene.seed) for scene in scenes)
    task = Task(None, None, names, queries, (action,), questions, None)  # type: ignore[arg-type]
    return judge(task, method, answers, scenes, rule, world.read, OPTIONS)


@pytest.mark.parametrize("action", ACTIONS)
def test_taking_the_only_cause_away_is_a_true_and_exact_explanation(action: str) -> None:
    rows = perfect_rows(PLAIN, refused(PLAIN, action)[:8], action)
    assert len(rows) == 8 and all(row.included and row.valid and row.to_allowed for row in rows)
    seen = [row for row in rows if row.recall is not None]
    assert len(seen) >= 6 and all(row.recall == 1 and row.precision > 0.8 for row in seen)
    assert {row.to_class for row in rows} == {"not stop" if action == "stop" else action}


def test_half_of_two_causes_is_no_true_explanation() -> None:
    rows = perfect_rows(PLAIN, refused(PLAIN, "forward", causes=2)[:5], "forward")
    assert all(row.included and row.valid is False for row in rows)
    seen = [row for row in rows if row.recall is not None]
    assert seen and all(0.5 <= row.recall <= 1 for row in seen) and min(row.recall for row in seen) == 0.5


def test_where_model_and_reading_disagree_nothing_is_said_of_validity() -> None:
    """A model with the night shortcut, judged by the plain rule: by day they agree, at night they need not."""
    night = [scene for scene in SCENES if scene.time == "night" and PLAIN.actions(scene)[2]][:4]
    rows = perfect_rows(PLAIN, night, "left", model=RULES["night"])
    assert night and all(not row.included and row.valid is None for row in rows)
    assert all(row.recall is None for row in rows)  # by the plain rule nothing refuses


@pytest.mark.parametrize(("name", "action"), [("biased", "right"), ("night", "left"), ("verge", "stop")])
def test_a_shortcut_that_is_taken_away_comes_first_and_is_absent_from_honest_explanations(name, action) -> None:
    rule = RULES[name]
    scenes = refused(rule, action)[:12]
    rows = perfect_rows(rule, scenes, action)
    honest = perfect_rows(PLAIN, refused(PLAIN, action)[:12], action)
    planted = [row for row in rows if row.planted]
    assert len(planted) >= 3 and not any(row.planted for row in honest)
    for row in planted:
        assert row.valid and any(speaks_of(name, phrase) for phrase in row.phrases), (row.image, row.phrases)
    found = assess({"plain": {"ours": honest}, name: {"ours": rows}}, {}, 0)
    place, phrases = found.ranks[name]["ours"]
    assert place is not None and place <= 2 and phrases >= 3
    measured = found.measures[name]["ours"]
    assert measured["shortcut_share"].mean >= len(planted) / len(rows) > measured["honest_share"].mean
    one, other = measured["shortcut_share"].mean, measured["honest_share"].mean
    assert measured["auc_explanations"].mean == pytest.approx(0.5 + (one - other) / 2)  # of scores that are 0 or 1


def test_what_also_refuses_by_itself_is_no_planted_cause() -> None:
    """A vehicle on the left refuses a left turn by the plain rules; the shortcut is about right turns."""
    rule = RULES["biased"]
    scenes = refused(rule, "left")[:4]
    assert all(rule.shortcut(scene) & rule.causes(scene, "left") for scene in scenes)
    assert not any(row.planted for row in perfect_rows(rule, scenes, "left"))


def row(phrases, to_class="right", rule="biased", **changes) -> Row:
    attribute = to_class.removeprefix("not ")
    made = Row(rule, "ours", "a", attribute, to_class, True, True, True, None, None, None, False, list(phrases))
    return dataclasses.replace(made, **changes)


def test_ranks_by_hand() -> None:
    own = "vehicle on the left removed"
    mine = [row([own, "sky grew"]), row([own]), row([]), row(["sky grew"], "not right")]
    honest = [row(["sky grew"]), row([own], "left"), row(["car"])]
    found = excess(mine, honest)
    assert found["right: vehicle on the left removed"] == pytest.approx(2 / 3)
    assert found["right: sky grew"] == pytest.approx(1 / 3 - 1 / 2)
    assert found["not right: sky grew"] == 1 and found["left: vehicle on the left removed"] == -1
    assert list(found)[:2] == ["not right: sky grew", "right: vehicle on the left removed"]
    assert shortcut_rank(found, "biased") == 2
    assert shortcut_rank({**found, "not right: sky grew": 2 / 3}, "biased") == 2  # a tie is lost
    assert shortcut_rank({f"left: {own}": 0.9, "right: sky grew": 0.1}, "biased") is None  # another action's
    assert shortcut_rank({f"right: {own}": 0.0}, "biased") is None
    assert scores(mine, "biased") == [1, 1, 0, 0] and set(SUBJECTS) == set(RULES) - {"plain"}
    assert told([row([]), row([], flipped=False), row([], "left")], ["right"]) == [row([])]


def test_auc_over_seeds_compares_models_by_their_share() -> None:
    own, other = row(["vehicle on the left removed"]), row(["sky grew"])
    found = seed_measures([[own, own], [own, other]], [[other], [], [own, other, other]], RULES["biased"], 0)
    assert found["shortcut_share_seeds"].mean == 0.75 and found["honest_share_seeds"].mean == pytest.approx(1 / 9)
    assert (found["auc_seeds"].mean, found["auc_seeds"].count) == (1, 5)


def test_planted_decisions_are_those_of_the_scenes(tmp_path: Path) -> None:
    params = small_world(tmp_path)
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


def small_world(folder: Path) -> Params:
    """Random networks and a few scenes, in the folder, with a parameter file."""
    save_models(folder)
    write_dataset(folder / "scenes", DatasetCounts(1, 1, 1, 1, 6, 1, 3), height=32, seed=0)
    tree = yaml.safe_load((folder / "params.yaml").read_text())
    tree["data"] |= {"root": str(folder / "scenes"), "cache": None}
    tree["invert"]["rect"] |= {"steps": 2, "decision_steps": 1}
    tree["truth"] |= {"rules": ["biased"], "methods": ["ours", "pixels", "random"]}
    tree["truth"] |= {"images": 2, "examples": 3, "seeds": 1}
    tree["truth"]["pixels"] |= {"steps": 2}
    (folder / "params.yaml").write_text(yaml.safe_dump(tree))
    return load_params(folder / "params.yaml")


def train_scenes(params: Params) -> list:
    labels = Path(params.data.root) / "bdd_oia/lastframe/gt_4a_21r/train_25k_images_actions.json"
    return [scene_of(image["file_name"]) for image in json.loads(labels.read_text())["images"]]


def test_the_command_writes_tables_and_examples(tmp_path: Path, monkeypatch, capsys) -> None:
    small_world(tmp_path)
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


def test_the_command_trains_as_the_stage_does(tmp_path: Path, monkeypatch) -> None:
    """With as many fewer wide pictures at a time."""
    params, seen = small_world(tmp_path), []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("blobex.truth.benchmark.benchmark", lambda params, *rest: seen.append(params) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.app(["truth", "--out", "out"], standalone_mode=False)
    monkeypatch.setattr("blobex.stages.truth.benchmark", lambda params, *rest: seen.append(params) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        common.run_stage(truth.main, "setup", arguments=["rect"])
    assert seen[0] == seen[1] and seen[0].decision.training.batch_size == params.decision.training.batch_size // 2


def test_measures_as_written() -> None:
    own = row(["vehicle on the left removed"], recall=0.5, precision=0.25, agrees=True)
    rows = {"plain": {"ours": [row([], rule="plain")]}, "biased": {"ours": [own, row([], included=False, valid=None)]}}
    found = assess(rows, {}, 0)
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
    params = small_world(tmp_path)
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
