"""The methods of the truth benchmark, in a painted world where what is true is a closed form."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor
from worlds.tiny_world import OUTPUTS, decide, render, scenes, tiny_explainer, tiny_params

from blobex.config.evaluation import PixelAttack
from blobex.core.errors import BlobexError
from blobex.datasets.images import to_array, to_float, to_uint8
from blobex.decisions.source import from_callable
from blobex.scenes.rules import PLAIN
from blobex.scenes.sample import sample
from blobex.truth.benchmark import SAME, assess, examine, with_same
from blobex.truth.measures import measures
from blobex.truth.methods import METHODS, ours, pixels, published, random
from blobex.truth.reader import Seen
from blobex.truth.task import Answer, Task, begin

COUNT = 4
OPTIONS = dataclasses.replace(tiny_params().truth, published_images=2)


def gullible(images: Tensor) -> Tensor:
    """The painted decision, which a chequered pattern, that no blob is painted with, moves as well."""
    rows, columns = torch.meshgrid(torch.arange(images.shape[2]), torch.arange(images.shape[3]), indexing="ij")
    pattern = ((rows + columns) % 2 * 2 - 1).float()
    return decide(images) + 400 * (images * pattern).mean((1, 2, 3))[:, None]


def truth_of(pictures) -> list[Seen]:
    """What the painted world's rule says of pictures: the decision without the pattern."""
    images = to_float(torch.stack([torch.from_numpy(picture.copy()) for picture in pictures]).permute(0, 3, 1, 2))
    return [Seen(dict(zip(OUTPUTS, row, strict=True))) for row in (decide(images) > 0).tolist()]


def start(count: int = COUNT, attributes=("stop",), **changes) -> Task:
    decision = from_callable(gullible, "attributes", OUTPUTS, name="gullible")
    params = tiny_params(steps=60)
    slow = dataclasses.replace(params, search=dataclasses.replace(params.search, mode="published"))
    queries = to_float(to_uint8(render(scenes(count))))
    names = [f"scene_{number}" for number in range(count)]
    explainers = (tiny_explainer(each, decision) for each in (params, slow))
    return begin(*explainers, names, queries, attributes, **changes)


@pytest.fixture(scope="module")
def task() -> Task:
    return start()


@pytest.fixture(scope="module")
def paced(task: Task) -> list[Answer]:
    """What the published method, which takes its time, answers about the first two pictures."""
    return published(task.first(2), OPTIONS)


def validity(task: Task, method, options=OPTIONS) -> dict[str, float]:
    chosen = dataclasses.replace(options, methods=[method])
    rows = examine(task, [sample(number) for number in range(COUNT)], PLAIN, truth_of, chosen)[0][method]
    return {name: found.mean for name, found in measures(rows, 0).items()}


def test_the_questions_are_those_of_the_model_in_order() -> None:
    task = start(attributes=("stop", "left"))
    assert task.pictures == [0, 0, 1, 1, 2, 2, 3, 3] and len(task) == 8
    assert task.questions.outputs == ("stop", "left") * COUNT
    reds = [seen.allowed["stop"] for seen in truth_of([to_array(query) for query in task.queries])]
    assert task.questions.after[::2] == tuple("not stop" if red else "stop" for red in reds) and len(set(reds)) == 2
    first = task.first(2)
    assert first.names == task.names[:2] and len(first) == 4 and len(first.inversion) == 2
    assert first.questions.after == task.questions.after[:4]
    with pytest.raises(BlobexError, match="no rule decides about 'brake'"):
        start(attributes=("brake",))


def test_a_search_of_blobs_is_true_and_an_attack_on_pixels_is_not(task: Task) -> None:
    """Both flip the model. The light of the world's rule changes its colour only in the blobs' counterfactual."""
    search, attack = validity(task, "ours"), validity(task, "pixels")
    assert search["flipped"] == attack["flipped"] == 1
    assert search["validity"] == search["flip_validity"] == 1
    assert attack["validity"] == attack["flip_validity"] == 0
    assert attack["flip_validity_allowed"] == attack["flip_validity_refused"] == 0
    assert "reconstruction_agrees" in search and "reconstruction_agrees" not in attack


def test_an_attack_keeps_its_bound_and_whole_grey_levels(task: Task) -> None:
    for query, answer in zip(task.queries, pixels(task, OPTIONS), strict=True):
        change = np.abs(answer.after.astype(int) - to_array(query).astype(int))
        assert np.array_equal(answer.before, to_array(query))
        assert 0 < change.max() <= OPTIONS.pixels.bound
        assert set(np.unique(change)) <= {0, 2, 4, 6, 8}
    weak = dataclasses.replace(OPTIONS, pixels=PixelAttack(bound=1, step=1, steps=1))
    honest = dataclasses.replace(task, explainer=tiny_explainer(tiny_params()))
    assert not any(answer.flipped for answer in pixels(honest, weak))  # it moves the light by 0.13


@pytest.mark.parametrize("method", METHODS)
def test_flags_are_what_the_model_says_of_the_pictures(task: Task, paced: list[Answer], method: str) -> None:
    task = task.first(2)
    answers = paced if method == "published" else METHODS[method](task, OPTIONS)
    assert len(answers) == len(task)
    pictures = torch.stack([torch.from_numpy(answer.after.copy()) for answer in answers])
    said = gullible(to_float(pictures.permute(0, 3, 1, 2)))
    for answer, logits, index, wanted in zip(answers, said, task.pictures, task.questions.target.wanted, strict=True):
        if abs(logits[1]) > 0.3:  # a picture in whole grey levels may fall back over a border that is nearer
            assert answer.flipped == bool((logits[1] > 0) == wanted), (method, index)
        assert (answer.agrees is None) == (method in ("pixels", "random"))
        assert answer.after.dtype == np.uint8 and answer.before.shape == answer.after.shape


def test_random_edits_grow_and_depend_on_the_seed_and_the_problem_only(task: Task) -> None:
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


def test_published_answers_about_the_first_pictures_beside_ours_on_the_same(task: Task, paced, monkeypatch) -> None:
    asked = list[Task]()
    monkeypatch.setitem(METHODS, "published", lambda some, options: asked.append(some) or paced)
    truth = [sample(number) for number in range(COUNT)]
    options = dataclasses.replace(OPTIONS, methods=["ours", "published"])
    rows, sheet = examine(task, truth, PLAIN, truth_of, options)
    assert [len(rows[method]) for method in ("ours", "published")] == [4, 2]
    assert [some.names for some in asked] == [task.names[:2]]
    columns = with_same(rows)
    assert columns[SAME] == rows["ours"][:2] and sheet.dtype == np.uint8
    assert with_same({"ours": rows["ours"]}) == {"ours": rows["ours"]}
    found = assess({"plain": columns}, {"plain": sheet}, 0)
    assert found.measures["plain"]["published"]["flipped"].count == 2 and found.ranks == {"plain": {}}
    with pytest.raises(BlobexError, match="needs an explainer"):
        published(dataclasses.replace(task, published=None), options)


def test_ours_begins_at_the_photo_and_published_at_the_reconstruction(task: Task, paced: list[Answer]) -> None:
    assert np.array_equal(ours(task.first(1), OPTIONS)[0].before, to_array(task.queries[0]))
    assert not np.array_equal(paced[0].before, to_array(task.queries[0]))
