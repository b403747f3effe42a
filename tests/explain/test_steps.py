"""Counterfactuals in steps: a linear model whose scores after each undone change are known in closed form."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from worlds.tiny_world import HEIGHT, OUTPUTS, WIDTH, painted_networks, road_images, scenes, tiny_explainer

from blobex.core.errors import BlobexError
from blobex.counterfactual.questions import build_questions
from blobex.datasets.images import to_float, to_tensor
from blobex.decisions.source import from_callable
from blobex.explain.blob_changes import blob_changes
from blobex.explain.explanation import Explanation
from blobex.explain.input_images import InvertedImages
from blobex.explain.record_files import as_json, read_records, write_records
from blobex.explain.request import Request
from blobex.explain.step import Step, needed
from blobex.explain.steps import Walker, add_steps
from blobex.explain.waterfall import waterfall
from blobex.report.gallery import step_bars

WEIGHTS = {1: 0.9, 2: 3.0, 3: 0.4}  # logit that a blob's removal adds, by its number; the query has -2.5


@pytest.fixture(scope="module")
def explained() -> Explanation:
    """An explanation that removes three blobs; the logit is the sum of what each adds."""
    layout = scenes(1)
    after = layout.replace({"sizes": layout.sizes.index_fill(1, torch.tensor([blob + 1 for blob in WEIGHTS]), -9.0)})

    def shown(state):
        """Hide the sizes of the blobs in three pixels, which is all that the model looks at."""
        image = torch.zeros(len(state.xs), 3, HEIGHT, WIDTH)
        for place, blob in enumerate(WEIGHTS):
            image[:, :, 0, place] = (state.sizes[:, blob + 1] < 0).float()[:, None]
        return image

    def decide(images):
        logit = sum(weight * images[:, 0, 0, place] for place, weight in enumerate(WEIGHTS.values())) - 2.5
        return torch.stack([-logit, logit, logit, logit], 1)

    decision = from_callable(decide, "attributes", OUTPUTS, name="linear")
    networks = painted_networks(decision, shown)
    explainer = tiny_explainer()
    query = shown(layout)
    inversion = explainer.invert(to_float(torch.stack([to_tensor(image) for image in road_images(1)])))
    images = InvertedImages(["a.png"], query, dataclasses.replace(inversion, layout=layout, image=query))
    questions = build_questions("attributes", OUTPUTS, decide(query), [1])
    (base,) = explainer.explain(road_images(1), Request(attributes=["stop"]))
    areas = torch.zeros(layout.blobs + 1)
    blobs = tuple(blob_changes(layout, after, areas, areas))
    record = dataclasses.replace(
        base, compose="full", flipped=True, blobs_before=layout, blobs_after=after, blobs=blobs, column=1, steps=()
    )
    record = dataclasses.replace(record, score_after=float(torch.tensor(4.3 - 2.5).sigmoid()))
    (walked,) = add_steps([record], questions, Walker(images, networks, decision, 4))
    return walked


def test_steps_are_the_greedy_path_in_closed_form(explained: Explanation) -> None:
    """Undone first is what adds least: 4.3 - 2.5, then without 0.4, without 0.9 and without 3.0."""
    assert [step.blob for step in explained.steps] == [3, 1, 2]
    expected = 1 / (1 + np.exp(-np.array([3.9, 3.0, 0.0]) + 2.5))
    assert [step.score for step in explained.steps] == pytest.approx(expected.tolist(), abs=1e-6)
    assert [step.flipped for step in explained.steps] == [True, True, False]
    assert needed(explained.steps) == [2]  # 3.0 alone exceeds 2.5, and 0.9 + 0.4 do not


def test_records_keep_steps_and_none_if_there_are_none(explained: Explanation, tmp_path: Path) -> None:
    write_records(tmp_path, "digest", [explained], [])
    (read,) = read_records(tmp_path)
    assert read.steps == explained.steps
    assert "steps" not in as_json(dataclasses.replace(explained, steps=()))


def test_single_changes_and_failures_have_no_steps(explained: Explanation) -> None:
    single = dataclasses.replace(explained, blobs=explained.blobs[:1], steps=())
    unflipped = dataclasses.replace(explained, flipped=False, steps=())
    for record in (single, unflipped):
        assert add_steps([record], None, None)[0].steps == ()


def test_waterfall_marks_needed_changes_and_refuses_single_ones(explained: Explanation) -> None:
    image = waterfall(explained)
    red = (image == (190, 60, 40)).all(2)
    assert image.dtype == np.uint8 and red.any()
    spared = dataclasses.replace(explained, steps=tuple(dataclasses.replace(s, flipped=True) for s in explained.steps))
    assert not (waterfall(spared) == (190, 60, 40)).all(2).any()
    with pytest.raises(BlobexError, match="no steps"):
        waterfall(dataclasses.replace(explained, steps=()))


def test_bars_of_the_page_join_each_score_to_the_next(explained: Explanation) -> None:
    bars = step_bars(as_json(explained))
    assert [bar.needed for bar in bars] == [False, False, True]
    scores = [explained.score_after, *(step.score for step in explained.steps)]
    assert [(bar.high, bar.low) for bar in bars] == list(itertools.pairwise(scores))


def test_needed_is_what_remains_at_the_last_flip() -> None:
    assert needed([]) == [] and needed([Step(1, 0.9, True)]) == []
    assert needed([Step(1, 0.2, False), Step(2, 0.9, True)]) == [1, 2]
