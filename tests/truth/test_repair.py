"""Repair of models from end to end with random networks: comparison of methods, command and bad input."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from worlds.truth_project import truth_project

from blobex.cli import main as cli
from blobex.config.params import Params
from blobex.core.errors import BlobexError
from blobex.datasets.datamodule import load_planted
from blobex.datasets.images import to_array, to_float
from blobex.explain.feedback import Feedback, add_feedback, image_digest
from blobex.networks.decision import load_decision
from blobex.scenes.rules import ACTIONS, PLAIN, RULES
from blobex.scenes.write import scene_of
from blobex.tracking.tracker import NullTracker
from blobex.truth import repair
from blobex.truth.evaluation import ReadImage
from blobex.truth.repair import (
    BEFORE,
    decisions,
    labelled,
    load_or_compute,
    load_tests,
    repair_rule,
    share_wrong,
    table,
    with_explained,
)
from blobex.truth.repair_folder import answered, trained_on

MODEL = Path("models/decision/rect/biased")


def project(folder: Path, **options: object) -> Params:
    params = truth_project(folder)
    config = folder / MODEL / "config.yaml"
    config.write_text(config.read_text() + "variant: biased\nsetup: rect\n")
    training = dataclasses.replace(params.repair.training, steps=2, batch_size=4)
    values = {"methods": ["ours", "pixels", "photos"], "images": 2, "group_images": 2, "training": training, **options}
    params = dataclasses.replace(params, repair=dataclasses.replace(params.repair, **values))
    (folder / "params.yaml").write_text(yaml.safe_dump(dataclasses.asdict(params)))
    return params


def test_labels_are_those_of_the_rule() -> None:
    """A reader without errors: the labels of night scenes are what the plain rules allow."""
    seeds = [f"scene-{number:08d}.jpg" for number in range(6)]
    images = torch.arange(6, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 4, 4)

    def read(arrays):
        scenes = [scene_of(seeds[array[0, 0, 0]]) for array in arrays]
        return [ReadImage(dict(zip(ACTIONS, PLAIN.actions(scene), strict=True))) for scene in scenes]

    found = labelled(images, read)
    expected = torch.tensor([PLAIN.actions(scene_of(name)) for name in seeds])
    assert (found.labels == expected).all() and len(labelled(images[:0], read)) == 0
    decided = torch.tensor([RULES["night"].actions(scene_of(name)) for name in seeds])
    by_numpy = (decided.numpy() != expected.numpy()).any(1).mean()
    assert share_wrong(found, decided) == pytest.approx(by_numpy)


def test_all_methods_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = project(tmp_path)
    models, folder = tmp_path / "models", tmp_path / "repaired"
    results, model = repair_rule(params, "rect", "biased", models, folder, NullTracker())
    assert list(results) == [BEFORE, "ours", "pixels", "photos", "unchanged"]
    assert results["unchanged"].images == 2  # are explained, and learnt from with each method
    assert results["photos"].images == min(results["ours"].images, 6)  # of six training images, with the explained ones
    unchanged = load_decision(tmp_path / MODEL)
    tests, held_out = load_tests(params, "rect", RULES["biased"]), load_planted(params, "rect", "test", "plain")
    accuracy = (decisions(unchanged, held_out.images) == held_out.actions.bool()).float().mean()
    assert results[BEFORE].accuracy["accuracy"] == pytest.approx(accuracy.item())
    right = (decisions(unchanged, tests.grouped) == tests.allowed)[:, ACTIONS.index("right")]
    for group, interval in results[BEFORE].groups.items():
        assert interval.mean == pytest.approx(
            np.mean([r for r, g in zip(right, tests.groups, strict=True) if g == group])
        )
    assert all(name in table(RULES["biased"], results) for name in results)
    monkeypatch.setattr(repair, "build_task", None)  # what is finished is not computed again
    again, same = repair_rule(params, "rect", "biased", models, folder, NullTracker())
    assert again == results
    assert all(torch.equal(tensor, same.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_a_method_learns_from_its_counterfactuals_and_what_they_explain() -> None:
    images = torch.arange(10, dtype=torch.uint8)[:, None, None, None]
    made = {"ours": images[4:7], "ours_same": images[4:5], "published": images[7:], "photos": images[8:]}
    found = {name: own.flatten().tolist() for name, own in with_explained(made, images[:4], 1).items()}
    assert found == {
        "ours": [4, 5, 6, 0, 1, 2, 3],
        "ours_same": [4, 0],
        "published": [7, 8, 9, 0],
        "photos": [8, 9, 0, 1, 2, 3],
        "unchanged": [0, 1, 2, 3],
    }


def test_damaged_parts_are_computed_again(tmp_path: Path) -> None:
    images, numbers = torch.ones(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 1])
    load_or_compute(tmp_path, "ours", ["a"], lambda: (images, numbers))
    (part,) = tmp_path.iterdir()
    kept = load_or_compute(tmp_path, "ours", ["a"], lambda: (images * 0, numbers))
    assert torch.equal(kept[0], images) and torch.equal(kept[1], numbers)
    part.write_bytes(part.read_bytes()[:50])
    assert torch.equal(load_or_compute(tmp_path, "ours", ["a"], lambda: (images * 2, numbers))[0], images * 2)
    assert torch.equal(load_or_compute(tmp_path, "ours", ["b"], lambda: (images * 3, numbers))[0], images * 3)


def answers(folder: Path, params: Params) -> list[Feedback]:
    """A person's answers about two images, which stand in the file."""
    data = load_planted(params, "rect", "train", "biased")
    rows = []
    for image, output, answer in zip(data.images, ("right", "stop"), ("false", "true"), strict=False):
        array = to_array(to_float(image))
        rows.append(Feedback(image_digest(array), "scene.jpg", output, True, answer, png(array)))  # type: ignore[arg-type]
    for row in rows:
        add_feedback(folder / "feedback.json", row)
    return rows


def png(array: np.ndarray) -> str:
    import base64
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def run(*arguments: str) -> None:
    cli.app(["repair", *arguments], standalone_mode=False)


def test_command_learns_from_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    rows = answers(tmp_path, project(tmp_path))
    monkeypatch.chdir(tmp_path)
    corrections = answered(rows, {}, ACTIONS)
    assert corrections.labels.isnan().sum() == 6
    assert corrections.labels[0, 3] == 0 and corrections.labels[1, 1] == 1
    run("--decision", str(MODEL), "--feedback", "feedback.json", "--out", "mended")
    measures = json.loads(Path("mended/metrics.json").read_text())
    assert measures["images"] == 2 and "learnt from 2 images" in capsys.readouterr().out
    assert trained_on(Path("mended")) == "biased" and not list(tmp_path.rglob("*.part"))
    before, after = (load_decision(path).state_dict() for path in (MODEL, Path("mended")))
    assert not torch.equal(before["classifier.weight"], after["classifier.weight"])


def test_bad_input_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(tmp_path, project(tmp_path))
    monkeypatch.chdir(tmp_path)
    row = json.loads(Path("feedback.json").read_text())[0]
    Path("against.json").write_text(json.dumps([{**row, "answer": "true"}]))
    Path("torn.json").write_text("[")
    own = ("--decision", str(MODEL), "--out", "mended")
    cases = [
        (("--feedback", "feedback.json", "--feedback", "against.json", *own), "contradict each other: remove one"),
        (own, "give either --feedback FILE or --rule plain"),
        (("--rule", "plain", *own), "there are no explanations to learn from: run `blobex explain`"),
        (("nowhere", "--rule", "plain", *own), "there are no explanations in nowhere"),
        (("--rule", "kind", "nowhere", *own), "unknown rule 'kind'"),
        (("--feedback", "torn.json", *own), "cannot read the answers in torn.json"),
        (
            ("--feedback", "feedback.json", "--decision", "model.pt2", "--out", "mended"),
            "no decision model that blobex",
        ),
        (("--feedback", "feedback.json", "--decision", "models/parser/rect", "--out", "mended"), "no decision model"),
    ]
    for arguments, message in cases:
        with pytest.raises(BlobexError, match=message) as refused:
            run(*arguments)
        assert "\n" not in str(refused.value) and not Path("mended").exists()
