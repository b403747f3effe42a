"""Agreement of decisions, by truth table and against torchmetrics."""

import math

import pytest
import torch
from torchmetrics.functional.classification import multiclass_accuracy, multilabel_accuracy

from blobex.metrics.agreement import attribute_agreement, decision_agreement

NAN, INF = math.nan, math.inf
TABLE = [  # logit before, logit after, agreement
    (2.0, 3.0, 1.0),
    (2.0, -1.0, 0.0),
    (-1.0, 2.0, 0.0),
    (-1.0, -2.0, 1.0),
    (0.1, 4.0, 1.0),
    (INF, -INF, 0.0),
    (INF, 5.0, 1.0),
    (NAN, 1.0, 0.0),
    (1.0, NAN, 0.0),
    (-1.0, NAN, 0.0),
    (NAN, NAN, 0.0),
]


@pytest.mark.parametrize(("before", "after", "expected"), TABLE)
def test_truth_table(before, after, expected):
    for one, other in ((before, after), (after, before)):
        measures = attribute_agreement(torch.tensor([[one]]), torch.tensor([[other]]), ("stop",))
        assert measures == {"agreement": expected, "agreement_stop": expected}


def test_attributes_equal_torchmetrics():
    random = torch.Generator().manual_seed(0)
    before, after = torch.randn(2, 200, 4, generator=random)
    expected = multilabel_accuracy(after.sigmoid(), (before > 0).int(), num_labels=4, average=None)
    names = ("forward", "stop", "left", "right")
    measures = decision_agreement("attributes", before, after, names)
    assert measures == attribute_agreement(before, after, names)
    assert list(measures) == ["agreement", *(f"agreement_{name}" for name in names)]
    assert list(measures.values())[1:] == pytest.approx(expected.tolist())
    assert measures["agreement"] == pytest.approx(expected.mean().item())


@pytest.mark.parametrize(("kind", "shape"), [("classes", (200, 5)), ("segmentation", (6, 5, 8, 16))])
def test_classes_and_pixels_equal_torchmetrics(kind, shape):
    before, after = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    expected = multiclass_accuracy(after, before.argmax(1), num_classes=5, average="micro")
    assert decision_agreement(kind, before, after, tuple("abcde")) == {"agreement": pytest.approx(expected.item())}


@pytest.mark.parametrize(("kind", "shape"), [("classes", (4, 3)), ("segmentation", (4, 3, 2, 2))])
def test_identical_opposite_and_nan(kind, shape):
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert decision_agreement(kind, logits, logits * 2, tuple("abc")) == {"agreement": 1.0}
    assert decision_agreement(kind, logits, -logits, tuple("abc")) == {"agreement": 0.0}
    broken = logits.clone()
    broken[0, 1] = NAN
    for one in (logits, broken):
        assert decision_agreement(kind, one, broken, tuple("abc")) == {"agreement": 0.75}


def test_numbers_agree_to_half_of_their_standard_deviation():
    """Speeds of 0 and 2 have a standard deviation of 1; angles that are all equal must not change at all."""
    before = torch.tensor([[0.0, 3.0], [2.0, 3.0], [0.0, 3.0], [2.0, 3.0]])
    after = torch.tensor([[0.5, 3.0], [1.4, 3.1], [-0.4, 3.0], [NAN, 3.0]])
    expected = {"agreement": 0.625, "agreement_speed": 0.5, "agreement_angle": 0.75}
    assert decision_agreement("regression", before, after, ("speed", "angle")) == expected
