"""The truth benchmark is done part by part: stopped ones go on, and processes share them."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from truth.test_judge import small_world
from worlds.processes import file_contents, run_processes

from blobex.config.params import Params
from blobex.config.read import load_params
from blobex.stages import common, truth
from blobex.truth import benchmark as module
from blobex.truth import parts
from blobex.truth.benchmark import benchmark, forget
from blobex.truth.judge import Row
from blobex.truth.parts import Part, kept
from blobex.truth.write import metrics, table

MORTAL = """
import os, signal
from blobex.stages import common, truth
from blobex.truth.parts import Part

write, last = Part.write, os.environ.get("DIES_AT")

def mortal(self, folder):
    name = folder.name.rpartition("-")[0]
    if name == last:
        os.kill(os.getpid(), signal.SIGKILL)
    print("wrote", name, flush=True)
    return write(self, folder)

Part.write = mortal
common.run_stage(truth.main, "setup")
"""


def part(seed: int) -> Part:
    """Rows with everything that a row may hold, and noise for a picture."""
    random = np.random.default_rng(seed)
    refused = Row("plain", "ours", "a.png", "left", "left", True, True, True, 1 / 3, 0.1, False, True, ["car gone"])
    other = Row("plain", "ours", "b.png", "stop", "not stop", False, False, None, None, None, None, False, [])
    return Part({"ours": [refused, other], "pixels": []}, random.integers(0, 256, (7, 5, 3), dtype=np.uint8))


def cheap_world(folder: Path) -> Params:
    """A world whose benchmark asks the cheapest method alone."""
    small_world(folder)
    tree = yaml.safe_load((folder / "params.yaml").read_text())
    tree["truth"]["methods"] = ["pixels"]
    (folder / "params.yaml").write_text(yaml.safe_dump(tree))
    return load_params(folder / "params.yaml")


def same(one: Part, other: Part) -> bool:
    return one.rows == other.rows and np.array_equal(one.sheet, other.sheet)


def test_a_part_is_read_as_it_was_written_and_found_once(tmp_path: Path) -> None:
    found, unasked = part(0), part(1)
    assert kept(tmp_path, "plain", ["settings"], lambda: found) is found
    assert same(kept(tmp_path, "plain", ["settings"], lambda: unasked), found)


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"ours": [{"rule": "plain"}]}', None])
@pytest.mark.parametrize("name", [parts.ROWS, parts.SHEET])
def test_a_damaged_part_is_found_anew(tmp_path: Path, name: str, damage: str | None) -> None:
    kept(tmp_path, "plain", [], lambda: part(0))
    (path,) = tmp_path.glob(f"plain-*/{name}")
    path.unlink()
    if damage is not None:
        path.write_text(damage)
    assert same(kept(tmp_path, "plain", [], lambda: part(1)), part(1))
    assert same(kept(tmp_path, "plain", [], lambda: part(2)), part(1))


def test_parts_of_other_settings_or_other_code_are_not_taken(tmp_path: Path, monkeypatch) -> None:
    kept(tmp_path, "plain", ["one"], lambda: part(0))
    assert same(kept(tmp_path, "plain", ["two"], lambda: part(1)), part(1))
    monkeypatch.setattr(parts, "code_digest", lambda start: "hash of other code")
    assert same(kept(tmp_path, "plain", ["one"], lambda: part(2)), part(2))


def test_a_benchmark_that_was_stopped_goes_on(tmp_path: Path, monkeypatch) -> None:
    params, examined, examine = cheap_world(tmp_path), list[str](), module.examine

    def mortal(task, scenes, rule, *rest):
        if rule.name == dies:
            raise KeyboardInterrupt
        examined.append(rule.name)
        return examine(task, scenes, rule, *rest)

    monkeypatch.setattr(module, "examine", mortal)
    dies = "biased"
    with pytest.raises(KeyboardInterrupt):
        benchmark(params, "rect", tmp_path / "models")
    dies = ""
    resumed = benchmark(params, "rect", tmp_path / "models")
    assert examined == ["plain", "biased"]
    forget(tmp_path / "models", "rect")
    whole = benchmark(params, "rect", tmp_path / "models")
    assert examined == ["plain", "biased"] * 2
    assert metrics(resumed) == metrics(whole) and table(resumed) == table(whole) and resumed.rows == whole.rows
    assert all(np.array_equal(resumed.sheets[name], whole.sheets[name]) for name in ("plain", "biased"))


OWN = ["truth.touched", "explain.rect.steps", "invert.rect.steps", "run.seed"]


@pytest.mark.parametrize("change", [*OWN, "explain.square.steps", "invert.square.steps"])
def test_what_decides_a_part_is_noticed_and_nothing_else(tmp_path: Path, monkeypatch, change: str) -> None:
    params, marks = small_world(tmp_path), list[object]()

    def noted(folder: Path, name: str, made_of: object, find: object) -> Part:
        marks.append(made_of)
        return part(0)

    monkeypatch.setattr(module, "kept", noted)
    for each in (params, changed(params, change.split("."))):
        module._part(each, "rect", tmp_path / "models", "plain", None)
    assert (marks[0] != marks[1]) == (change in OWN)


def changed(params: Params, keys: list[str]) -> Params:
    """Parameters with a number, or what is in a section of them, one larger."""
    value = getattr(params, keys[0])
    return dataclasses.replace(params, **{keys[0]: changed(value, keys[1:]) if keys[1:] else value + 1})


def test_the_stage_keeps_no_part_once_all_is_written(tmp_path: Path, monkeypatch) -> None:
    cheap_world(tmp_path)
    monkeypatch.chdir(tmp_path)
    common.run_stage(truth.main, "setup", arguments=["rect"])
    assert sorted(path.name for path in Path("reports/truth/rect").iterdir()) == [
        "examples",
        "explanations.parquet",
        "metrics.json",
        "table.txt",
    ]
    assert not Path("models/truth/rect/parts").exists()


@pytest.mark.slow
def test_two_processes_find_what_one_finds_though_one_was_killed(tmp_path: Path) -> None:
    """They share models and small models; the killed one's share is done when they are started again."""
    small_world(tmp_path)
    tree_of_params = yaml.safe_load((tmp_path / "params.yaml").read_text())
    tree_of_params["truth"] |= {"seeds": 2, "seed_steps": 2, "seed_images": 2}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree_of_params))
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
