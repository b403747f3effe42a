"""Results about single models: a stopped benchmark resumes from them, and processes share them."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from worlds.processes import file_contents, run_processes
from worlds.truth_project import truth_project

from blobex.cli import main as cli
from blobex.config.params import Params
from blobex.stages import common, truth
from blobex.truth import benchmark as benchmark_module
from blobex.truth import results as results_module
from blobex.truth.benchmark import benchmark, cache_folder
from blobex.truth.evaluation import EvaluatedAnswer
from blobex.truth.result_files import metrics, table
from blobex.truth.results import ModelResults, load_or_compute

MORTAL = """
import os, signal
from blobex.stages import common, truth
from blobex.truth.results import ModelResults

write, last = ModelResults.write, os.environ.get("DIES_AT")

def mortal(self, folder):
    name = folder.name.rpartition("-")[0]
    if name == last:
        os.kill(os.getpid(), signal.SIGKILL)
    print("wrote", name, flush=True)
    return write(self, folder)

ModelResults.write = mortal
common.run_stage(truth.main, "setup")
"""
INPUTS = ["truth.touched", "explain.rect.steps", "invert.rect.steps", "run.seed"]


def results_of(seed: int) -> ModelResults:
    """Rows with every kind of value, and noise as the image of examples."""
    random = np.random.default_rng(seed)
    flags = {"flipped": True, "included": True, "valid": True, "agrees": False, "planted": True}
    numbers = {"recall": 1 / 3, "precision": 0.1}
    valid = EvaluatedAnswer("plain", "ours", "a.png", "left", "left", phrases=["car removed"], **flags, **numbers)
    empty = dict.fromkeys(("valid", "recall", "precision", "agrees")) | {"phrases": []}
    failed = dataclasses.replace(valid, to_class="not stop", flipped=False, included=False, planted=False, **empty)
    return ModelResults({"ours": [valid, failed], "pixels": []}, random.integers(0, 256, (7, 5, 3), dtype=np.uint8))


def same(one: ModelResults, other: ModelResults) -> bool:
    return one.rows == other.rows and np.array_equal(one.examples, other.examples)


def test_results_are_read_as_written_and_computed_once(tmp_path: Path) -> None:
    first, second = results_of(0), results_of(1)
    assert load_or_compute(tmp_path, "plain", ["settings"], lambda: first) is first
    assert same(load_or_compute(tmp_path, "plain", ["settings"], lambda: second), first)


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"ours": [{"rule": "plain"}]}', None])
@pytest.mark.parametrize("name", [results_module.ROWS, results_module.EXAMPLES])
def test_damaged_results_are_computed_again(tmp_path: Path, name: str, damage: str | None) -> None:
    load_or_compute(tmp_path, "plain", [], lambda: results_of(0))
    (path,) = tmp_path.glob(f"plain-*/{name}")
    path.unlink()
    if damage is not None:
        path.write_text(damage)
    assert same(load_or_compute(tmp_path, "plain", [], lambda: results_of(1)), results_of(1))
    assert same(load_or_compute(tmp_path, "plain", [], lambda: results_of(2)), results_of(1))


def test_results_of_other_inputs_or_code_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_or_compute(tmp_path, "plain", ["one"], lambda: results_of(0))
    assert same(load_or_compute(tmp_path, "plain", ["two"], lambda: results_of(1)), results_of(1))
    monkeypatch.setattr(results_module, "code_digest", lambda start: "hash of other code")
    assert same(load_or_compute(tmp_path, "plain", ["one"], lambda: results_of(2)), results_of(2))


def test_stopped_benchmark_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params, models = truth_project(tmp_path, methods=["pixels"]), tmp_path / "models"
    evaluated, evaluate, dies = list[str](), benchmark_module.evaluate_methods, "biased"

    def mortal(task, scenes, rule, *rest):
        if rule.name == dies:
            raise KeyboardInterrupt
        evaluated.append(rule.name)
        return evaluate(task, scenes, rule, *rest)

    monkeypatch.setattr(benchmark_module, "evaluate_methods", mortal)
    with pytest.raises(KeyboardInterrupt):
        benchmark(params, "rect", models)
    dies = ""
    resumed = benchmark(params, "rect", models)
    assert evaluated == ["plain", "biased"]
    shutil.rmtree(cache_folder(models, "rect"))
    whole = benchmark(params, "rect", models)
    assert evaluated == ["plain", "biased"] * 2
    assert metrics(resumed) == metrics(whole) and table(resumed) == table(whole) and resumed.rows == whole.rows
    assert all(np.array_equal(resumed.examples[name], whole.examples[name]) for name in ("plain", "biased"))


@pytest.mark.parametrize("change", [*INPUTS, "explain.square.steps", "invert.square.steps"])
def test_cache_depends_on_the_inputs_of_the_results_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    params, models = truth_project(tmp_path), tmp_path / "models"
    monkeypatch.setattr(benchmark_module, "evaluate_methods", lambda *task: results_of(0))
    for each in (params, increased(params, change.split("."))):
        benchmark_module.model_results(each, "rect", models, "plain", None)
    assert (len(list(cache_folder(models, "rect").iterdir())) == 2) == (change in INPUTS)


def increased(params: Params, keys: list[str]) -> Params:
    """Parameters with the number at dotted keys increased by one."""
    value = getattr(params, keys[0])
    return dataclasses.replace(params, **{keys[0]: increased(value, keys[1:]) if keys[1:] else value + 1})


def test_stage_and_command_write_the_same_and_remove_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth_project(tmp_path, methods=["ours"], images=1, seeds=2, seed_steps=1, seed_images=1)
    monkeypatch.chdir(tmp_path)
    common.run_stage(truth.main, "setup", arguments=["rect"])
    stage = file_contents(Path("reports/truth/rect"))
    files = {
        "explanations.parquet",
        "metrics.json",
        "measures.json",
        "table.txt",
        "examples/plain.png",
        "examples/biased.png",
        "causes/plain.json",
        "causes/biased.json",
    }
    assert set(stage) == files
    assert not cache_folder(Path("models"), "rect").exists()
    shutil.rmtree("models/truth", ignore_errors=True)
    cli.app(["truth", "--out", "out"], standalone_mode=False)
    assert file_contents(Path("out")) == {
        name: content for name, content in stage.items() if name not in ("metrics.json", "measures.json")
    }


@pytest.mark.slow
def test_two_processes_compute_what_one_computes_although_one_was_killed(tmp_path: Path) -> None:
    """They share models and small models; the killed one's share is done when they are started again."""
    truth_project(tmp_path, seeds=2, seed_steps=2, seed_images=2)
    stage = "-c", MORTAL, "rect"
    (alone,) = run_processes(tmp_path, 1, *stage)
    assert alone[0] == 0, alone[2]
    expected, models = file_contents(tmp_path / "reports"), file_contents(tmp_path / "models")
    shutil.rmtree(tmp_path / "reports")
    shutil.rmtree(tmp_path / "models/truth")
    first, second = run_processes(tmp_path, 2, *stage, dies=(1, "biased_0"))
    assert second[0] == -9 and wrote(second[1]) == ["biased"], second[2]
    assert first[0] == 1 and wrote(first[1]) == ["plain", "plain_0", "plain_1"]
    assert "another process of this run is gone" in first[2] and "Traceback" not in first[2]
    assert not (tmp_path / "reports/truth/rect/metrics.json").exists()
    first, second = run_processes(tmp_path, 2, *stage)
    assert first[0] == second[0] == 0, first[2] + second[2]
    assert wrote(first[1]) == [] and wrote(second[1]) == ["biased_0", "biased_1"]
    assert file_contents(tmp_path / "reports") == expected
    assert file_contents(tmp_path / "models") == models


def wrote(out: str) -> list[str]:
    return [line.split()[1] for line in out.splitlines() if line.startswith("wrote ")]
