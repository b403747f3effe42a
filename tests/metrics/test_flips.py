"""Decisions that flip, by truth table."""

import math

import pytest
import torch
from torchmetrics.functional.classification import multiclass_accuracy, multilabel_accuracy

from blobex.metrics.flips import agreement, agreement_measures, flip_rate, flipped, kept

NAN, INF = math.nan, math.inf
TABLE = [  # logit before, logit after, flips, agrees
    (2.0, 3.0, False, True),
    (2.0, -1.0, True, False),
    (-1.0, 2.0, True, False),
    (-1.0, -2.0, False, True),
    (0.1, 4.0, False, True),  # more sure than before is no flip
    (INF, -INF, True, False),
    (INF, 5.0, False, True),
    (NAN, 1.0, False, False),
    (1.0, NAN, False, False),
    (-1.0, NAN, False, False),
    (NAN, NAN, False, False),
]


def columns():
    before, after, flips, agrees = zip(*TABLE, strict=True)
    return torch.tensor(before), torch.tensor(after), torch.tensor(flips), torch.tensor(agrees)


def test_truth_table():
    before, after, flips, agrees = columns()
    assert torch.equal(flipped(before, after), flips)
    for row, expected in enumerate(agrees.tolist()):
        assert agreement(before[row, None, None], after[row, None, None]).item() == expected


def test_nan_stays_in_the_count():
    before, after, flips, _ = columns()
    assert flip_rate(before, after) == pytest.approx(sum(flips.tolist()) / len(TABLE))
    assert flip_rate(torch.tensor([1.0, 1.0]), torch.tensor([-1.0, NAN])) == 0.5


def test_flip_is_symmetric():
    before, after, _, _ = columns()
    assert torch.equal(flipped(before, after), flipped(after, before))


def test_probability_above_a_half_is_logit_above_zero():
    random = torch.Generator().manual_seed(0)
    before, after = torch.randn(2, 500, generator=random)
    by_probability = (before.sigmoid() > 0.5) != (after.sigmoid() > 0.5)
    assert flip_rate(before, after) == pytest.approx(by_probability.double().mean().item())


def test_nothing_at_all_has_no_rate():
    assert math.isnan(flip_rate(torch.zeros(0), torch.zeros(0)))


def test_agreement_is_the_accuracy_per_attribute():
    random = torch.Generator().manual_seed(0)
    before, after = torch.randn(2, 200, 4, generator=random)
    expected = multilabel_accuracy(after.sigmoid(), (before > 0).int(), num_labels=4, average=None)
    torch.testing.assert_close(agreement(before, after).float(), expected)
    names = ("forward", "stop", "left", "right")
    measures = agreement_measures(before, after, names)
    assert list(measures) == ["agreement", *(f"agreement_{name}" for name in names)]
    assert measures["agreement_left"] == pytest.approx(expected[2].item())
    assert measures["agreement"] == pytest.approx(expected.mean().item())


def test_kept_classes_are_the_accuracy():
    random = torch.Generator().manual_seed(0)
    before, after = torch.randn(2, 200, 5, generator=random)
    expected = multiclass_accuracy(after, before.argmax(1), num_classes=5, average="micro")
    assert kept("classes", before, after, tuple("abcde")) == {"agreement": pytest.approx(expected.item())}
    before, after = torch.randn(2, 6, 5, 8, 16, generator=random)
    expected = multiclass_accuracy(after, before.argmax(1), num_classes=5, average="micro")
    assert kept("segmentation", before, after, tuple("abcde")) == {"agreement": pytest.approx(expected.item())}


def test_kept_attributes_are_told_by_name():
    random = torch.Generator().manual_seed(0)
    before, after = torch.randn(2, 50, 2, generator=random)
    assert kept("attributes", before, after, ("a", "b")) == agreement_measures(before, after, ("a", "b"))
    assert set(kept("attributes", before, after, ("a", "b"))) == {"agreement", "agreement_a", "agreement_b"}


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 2, 2)])
def test_what_is_kept_of_the_same_and_of_nan(shape):
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    kind = "classes" if len(shape) == 2 else "segmentation"
    assert kept(kind, logits, logits * 2, tuple("abc")) == {"agreement": 1.0}
    assert kept(kind, logits, -logits, tuple("abc"))["agreement"] == 0.0
    broken = logits.clone()
    broken[0, 1] = NAN
    assert kept(kind, logits, broken, tuple("abc")) == {"agreement": 0.75}
    assert kept(kind, broken, broken, tuple("abc")) == {"agreement": 0.75}
