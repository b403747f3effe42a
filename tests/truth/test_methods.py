"""The methods of the truth benchmark, in a toy world whose true decisions have a closed form."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor
from worlds.tiny_world import OUTPUTS, decide, render, scenes, tiny_explainer, tiny_params

from blobex.config.explain import PixelAttack
from blobex.core.errors import BlobexError
from blobex.counterfactual.target import AttributeTarget
from blobex.datasets.images import to_array, to_float, to_uint8
from blobex.decisions.source import from_callable
from blobex.scenes.rules import PLAIN
from blobex.scenes.sample import sample
from blobex.truth.benchmark import evaluate_methods
from blobex.truth.evaluation import ReadImage
from blobex.truth.measures import measures
from blobex.truth.methods import METHODS, Answer, Task, build_task, ours, pixels, published, random
from blobex.truth.results import OURS_SAME, summarise, with_ours_on_same_images

COUNT, NAN = 4, float("nan")
OPTIONS = dataclasses.replace(tiny_params().truth, published_images=2)


def gullible(images: Tensor) -> Tensor:
    """The true decision plus the response to a chequered pattern, which no blob can render."""
    rows, columns = torch.meshgrid(torch.arange(images.shape[2]), torch.arange(images.shape[3]), indexing="ij")
    pattern = ((rows + columns) % 2 * 2 - 1).float()
    return decide(images) + 400 * (images * pattern).mean((1, 2, 3))[:, None]


def read(images) -> list[ReadImage]:
    """The true decisions: without the response to the pattern."""
    tensor = to_float(torch.stack([torch.from_numpy(image.copy()) for image in images]).permute(0, 3, 1, 2))
    return [ReadImage(dict(zip(OUTPUTS, row, strict=True))) for row in (decide(tensor) > 0).tolist()]


def start(count: int = COUNT, attributes=("stop",), **changes) -> Task:
    decision = from_callable(gullible, "attributes", OUTPUTS, name="gullible")
    params = tiny_params(steps=60)
    slow = dataclasses.replace(params, search=dataclasses.replace(params.search, mode="published"))
    queries = to_float(to_uint8(render(scenes(count))))
    names = [f"scene_{number}" for number in range(count)]
    explainers = (tiny_explainer(each, decision) for each in (params, slow))
    return build_task(*explainers, names, queries, attributes, **changes)


@pytest.fixture(scope="module")
def task() -> Task:
    return start()


@pytest.fixture(scope="module")
def paced(task: Task) -> list[Answer]:
    """Answers of the published method about the first two images."""
    return published(task.first(2), OPTIONS)


def validity(task: Task, method, options=OPTIONS) -> dict[str, float]:
    chosen = dataclasses.replace(options, methods=[method])
    scenes = [sample(number) for number in range(COUNT)]
    rows = evaluate_methods(task, scenes, PLAIN, read, chosen).rows[method]
    return {name: measure.mean for name, measure in measures(rows, 0).items()}


def test_questions_are_ordered_by_image() -> None:
    task = start(attributes=("stop", "left"))
    assert task.image_numbers == [0, 0, 1, 1, 2, 2, 3, 3] and len(task) == 8
    assert task.questions.outputs == ("stop", "left") * COUNT
    reds = [image.allowed["stop"] for image in read([to_array(query) for query in task.queries])]
    assert task.questions.after[::2] == tuple("not stop" if red else "stop" for red in reds) and len(set(reds)) == 2
    first = task.first(2)
    assert first.names == task.names[:2] and len(first) == 4 and len(first.inversion) == 2
    assert first.questions.after == task.questions.after[:4]
    with pytest.raises(BlobexError, match="no rule decides about 'brake'"):
        start(attributes=("brake",))


def test_flips_of_the_search_are_valid_and_those_of_pixel_attacks_are_not(task: Task) -> None:
    """Both flip the model, but only the search changes the colour of the light."""
    search, attack = validity(task, "ours"), validity(task, "pixels")
    assert search["flipped"] == attack["flipped"] == 1
    assert search["validity"] == search["flip_validity"] == 1
    assert attack["validity"] == attack["flip_validity"] == 0
    assert attack["flip_validity_allowed"] == attack["flip_validity_refused"] == 0
    assert "reconstruction_agrees" in search and "reconstruction_agrees" not in attack


def test_attack_keeps_its_bound_and_whole_grey_levels(task: Task) -> None:
    for query, answer in zip(task.queries, pixels(task, OPTIONS), strict=True):
        change = np.abs(answer.after.astype(int) - to_array(query).astype(int))
        assert np.array_equal(answer.before, to_array(query))
        assert 0 < change.max() <= OPTIONS.pixels.bound
        assert set(np.unique(change)) <= {0, 2, 4, 6, 8}
    weak = dataclasses.replace(OPTIONS, pixels=PixelAttack(bound=1, step=1, steps=1))
    honest = dataclasses.replace(task, explainer=tiny_explainer(tiny_params()))
    assert not any(answer.flipped for answer in pixels(honest, weak))  # it changes the light by 0.13


@pytest.mark.parametrize("method", METHODS)
def test_flags_agree_with_the_model(task: Task, paced: list[Answer], method: str) -> None:
    task = task.first(2)
    answers = paced if method == "published" else METHODS[method](task, OPTIONS)
    assert len(answers) == len(task)
    images = torch.stack([torch.from_numpy(answer.after.copy()) for answer in answers])
    outputs, wanted = gullible(to_float(images.permute(0, 3, 1, 2))), task.questions.target.wanted
    for answer, logits, index, to in zip(answers, outputs, task.image_numbers, wanted, strict=True):
        if abs(logits[1]) > 0.3:  # rounding to grey levels may undo a closer flip
            assert answer.flipped == bool((logits[1] > 0) == to), (method, index)
        assert (answer.agrees is None) == (method in ("pixels", "random"))
        assert answer.after.dtype == np.uint8 and answer.before.shape == answer.after.shape


def test_random_edits_grow_and_depend_on_seed_and_problem_only(task: Task) -> None:
    answers, again = random(task, OPTIONS), random(task, OPTIONS)
    few = random(task.first(2), OPTIONS)
    for one, two in zip(answers, again, strict=True):
        assert np.array_equal(one.after, two.after)
    for one, two in zip(answers, few, strict=False):
        assert np.array_equal(one.after, two.after) and one.flipped == two.flipped
    params = task.explainer.params
    other = dataclasses.replace(params, run=dataclasses.replace(params.run, seed=1))
    changed = random(dataclasses.replace(task, explainer=dataclasses.replace(task.explainer, params=other)), OPTIONS)
    assert not all(np.array_equal(one.after, two.after) for one, two in zip(answers, changed, strict=True))
    once = dataclasses.replace(OPTIONS, random=dataclasses.replace(OPTIONS.random, tries=1))
    assert sum(answer.flipped for answer in random(task, once)) < sum(answer.flipped for answer in answers)


def test_published_answers_about_the_first_images_are_compared_with_ours(task: Task, paced, monkeypatch) -> None:
    tasks = list[Task]()
    monkeypatch.setitem(METHODS, "published", lambda task, options: tasks.append(task) or paced)
    options = dataclasses.replace(OPTIONS, methods=["ours", "published"])
    results = evaluate_methods(task, [sample(number) for number in range(COUNT)], PLAIN, read, options)
    assert [len(results.rows[method]) for method in ("ours", "published")] == [4, 2]
    assert [each.names for each in tasks] == [task.names[:2]]
    columns, ours = with_ours_on_same_images(results.rows), results.rows["ours"]
    assert columns[OURS_SAME] == ours[:2] and results.examples.dtype == np.uint8
    assert with_ours_on_same_images({"ours": ours}) == {"ours": ours}
    summary = summarise({"plain": columns}, {"plain": results.examples}, 0)
    assert summary.measures["plain"]["published"]["flipped"].count == 2 and summary.ranks == {"plain": {}}
    with pytest.raises(BlobexError, match="needs an explainer"):
        published(dataclasses.replace(task, published=None), options)


def test_published_answers_are_judged_by_the_questions_about_the_queries(task: Task) -> None:
    """Where the reconstruction is decided otherwise than the query, the scripts ask for the query's own decision."""
    scores, image = (0.9, 0.1, NAN), np.zeros((4, 8, 3), np.uint8)
    shared = {"compose": "full", "reconstruction": image, "counterfactual": image, "flipped": False}
    found = [
        SimpleNamespace(**shared, score_after=score, failed=score is NAN, reconstruction_agrees=False)
        for score in scores
    ]
    script = SimpleNamespace(plan=lambda request: None, explain_inverted=lambda *rest: found)
    stop = torch.full((len(found),), OUTPUTS.index("stop"))
    for wanted, flips in ((True, [True, False, False]), (False, [False, True, False])):
        target = AttributeTarget(stop, torch.full((len(found),), wanted))
        asked = dataclasses.replace(task.questions, target=target)
        answers = published(dataclasses.replace(task, published=script, questions=asked), OPTIONS)  # type: ignore[arg-type]
        assert [answer.flipped for answer in answers] == flips


def test_changes_of_ours_start_at_the_query_and_of_published_at_the_reconstruction(task: Task, paced) -> None:
    assert np.array_equal(ours(task.first(1), OPTIONS)[0].before, to_array(task.queries[0]))
    assert not np.array_equal(paced[0].before, to_array(task.queries[0]))
