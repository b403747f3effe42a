"""Measures of a set of explanations, against values worked out by hand in the painted world."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor
from worlds.tiny_world import PLAIN, decide, render, scenes, tiny_explainer, tiny_params

from blobex.core.errors import BlobexError
from blobex.datasets.images import to_array, to_float, to_tensor
from blobex.explain.explanation import Explanation
from blobex.explain.measures import diversity, explanation_values, split_distance
from blobex.explain.request import Request
from blobex.metrics.feature_sets import split_frechet


def features(pictures: Tensor) -> Tensor:
    return torch.cat([pictures.mean((2, 3)), pictures.std((2, 3))], dim=1) + 2


def distance(first: Tensor, second: Tensor) -> Tensor:
    return (first - second).abs().flatten(1).mean(1)


@pytest.fixture(scope="module")
def records() -> list[Explanation]:
    shown = [to_array(picture) for picture in render(scenes(8))[:5]]
    return tiny_explainer(tiny_params(steps=60)).explain(shown, Request(["stop", "left"], count=2))


def test_one_value_per_explanation(records: list[Explanation]) -> None:
    measures = explanation_values(records, "pd", PLAIN, features, "cosine_mean")
    values = {name: measure.values for name, measure in measures.items()}
    assert all(measure.images == [record.image for record in records] for measure in measures.values())
    assert values["flip_rate"] == [float(record.flipped) for record in records]
    assert values["pd"] == [record.perceptual for record in records]
    assert values["changed_blobs"] == [len(record.changed_blobs) for record in records]
    for record, similar in zip(records, values["cosine_mean"], strict=True):
        pair = [features(to_float(to_tensor(picture))[None])[0] for picture in (record.query, record.counterfactual)]
        assert similar == pytest.approx(torch.cosine_similarity(*pair, dim=0).item(), abs=1e-5)
    for record, cout in zip(records, values["cout"], strict=True):
        logit = [
            decide(to_float(to_tensor(picture))[None])[0, record.column].item()
            * (1 if "not" in record.from_class else -1)
            for picture in (record.query, record.counterfactual)
        ]
        ends = [2 / (1 + np.exp(-each)) - 1 for each in logit]  # wanted less original, at both ends of the curve
        assert ends[0] < 0 and cout <= 1
        if record.flipped:
            assert cout > ends[0]


def test_failures_count_as_no_flip_only(records: list[Explanation]) -> None:
    broken = [dataclasses.replace(records[0], failed=True, flipped=False, perceptual=float("nan")), *records[1:]]
    values = explanation_values(broken, "pd", PLAIN, features, "cosine_mean")
    assert values["flip_rate"].values[0] == 0 and len(values["flip_rate"].values) == len(records)
    assert len(values["pd"].values) == len(values["cout"].values) == len(records) - 1
    gated = [dataclasses.replace(record, gate="already decided otherwise") for record in records]
    assert sum(explanation_values(gated, "pd", PLAIN, features, "c")["flipped_by_change"].values) == 0
    with pytest.raises(BlobexError, match="there are no explanations"):
        explanation_values([], "pd", PLAIN, features, "c")


def test_diversity_of_two_counterfactuals(records: list[Explanation]) -> None:
    values = diversity(records, distance)
    assert values["diversity"].images == [record.image for record in records[::2]]
    apart_and_sets = zip(values["diversity"].values, values["diversity_of_blobs"].values, strict=True)
    for index, (apart, sets) in enumerate(apart_and_sets):
        one, other = records[2 * index], records[2 * index + 1]
        expected = np.abs(one.counterfactual.astype(float) - other.counterfactual).mean() / 127.5
        assert apart == pytest.approx(expected, rel=1e-4)
        first, second = set(one.changed_blobs), set(other.changed_blobs)
        assert sets == pytest.approx(1 - len(first & second) / len(first | second))
    assert not any(measure.values for measure in diversity(records[::2], distance).values())


def test_split_distance_is_per_attribute(records: list[Explanation]) -> None:
    def of(name: str, attribute: str) -> Tensor:
        chosen = [getattr(each, name) for each in records if each.attribute == attribute and each.number == 0]
        return features(to_float(torch.stack([to_tensor(picture) for picture in chosen])))

    each = [split_frechet(of("query", name), of("counterfactual", name), 3) for name in ("left", "stop")]
    assert split_distance(records, features, 3) == pytest.approx(sum(each) / 2)
    assert np.isnan(split_distance(records[:4], features, 3))
