"""Causal effects against closed forms of structural models, the identity of Tian and Pearl, and the exact sign test."""

from __future__ import annotations

import numpy as np
import pytest

from blobex.core.errors import BlobexError
from blobex.metrics.effects import Effect, effect, is_verified

NAMES = [str(number) for number in range(100)]


def of(before: np.ndarray, after: np.ndarray) -> Effect:
    return effect(before.astype(float).tolist(), after.astype(float).tolist(), NAMES[: len(before)])


def test_disjunction_is_always_sufficient_and_necessary_without_the_other_cause() -> None:
    """y = x or u: PN = P(not u), PS = 1 (Pearl, Causality, 2009, section 9.2)."""
    other = np.arange(100) < 30
    found = of(other, np.ones(100, bool))
    assert found.necessity is not None and found.sufficiency is not None
    assert (found.effect.mean, found.necessity.mean, found.sufficiency.mean) == (0.7, 0.7, 1.0)


def test_conjunction_is_always_necessary_and_sufficient_with_the_other_cause() -> None:
    """y = x and u: PN = 1, PS = P(u)."""
    found = of(np.zeros(100, bool), np.arange(100) < 30)
    assert found.necessity is not None and found.sufficiency is not None
    assert (found.effect.mean, found.necessity.mean, found.sufficiency.mean) == (0.3, 1.0, 0.3)


def test_both_probabilities_share_that_of_necessity_and_sufficiency() -> None:
    """PNS = PN P(y|x) = PS P(y'|x') if x is set by intervention (Tian and Pearl, 2000, theorem 1)."""
    random = np.random.default_rng(0)
    before, after = random.random(100) < 0.3, random.random(100) < 0.8
    found = of(before, after)
    assert found.necessity is not None and found.sufficiency is not None
    both = float((~before & after).mean())
    assert found.necessity.mean * after.mean() == pytest.approx(both)
    assert found.sufficiency.mean * (~before).mean() == pytest.approx(both)


def test_an_inhibitor_is_a_cause_of_the_opposite_decision() -> None:
    before, after = np.arange(100) < 80, np.arange(100) < 20
    one, other = of(before, after), of(~before, ~after)
    assert one.effect.mean == -other.effect.mean == pytest.approx(-0.6)
    assert (one.necessity, one.sufficiency) == (other.necessity, other.sufficiency)


def test_opposite_changes_are_changes() -> None:
    same, other = np.arange(100) < 50, np.arange(100) >= 50
    assert of(same, other).effect.mean == 0 and of(same, other).changes and not of(same, same).changes


def test_interval_holds_the_true_effect_as_often_as_it_says() -> None:
    """Images with effects of -1, 0 and 1 by chance, the mean of which is 0.3."""
    random, inside = np.random.default_rng(1), []
    for _ in range(120):
        change = random.choice([-1, 0, 1], p=[0.1, 0.5, 0.4], size=64)
        value = of(change < 0, change > 0).effect
        inside.append(value.low <= 0.3 <= value.high)
    assert 0.9 < np.mean(inside) < 0.985


def test_sign_test_is_exact_and_corrected() -> None:
    """All of n changes go one way with probability 2 * 2^-n by chance."""
    for claims in (1, 30, 200):
        needed = next(n for n in range(1, 40) if 2 * 2.0**-n <= 0.05 / claims)
        assert is_verified([1.0] * needed + [0.0] * 50, claims) and not is_verified([1.0] * (needed - 1), claims)
        assert is_verified([-0.5] * needed, claims) and not is_verified([-0.5] * needed, claims, positive=True)
    assert not is_verified([], 1) and not is_verified([0.0] * 64, 1)
    assert not is_verified([1.0, -1.0] * 32, 1)


def test_nothing_to_compare_raises() -> None:
    with pytest.raises(BlobexError, match="one value or more"):
        effect([], [], [])
    found = effect([1, 1], [1, 1], ["a", "b"])
    assert found.sufficiency is None and found.necessity is not None and found.necessity.mean == 0
