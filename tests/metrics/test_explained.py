"""Measures of a set of explanations against counts by hand."""

import pytest

from blobex.core.errors import BlobexError
from blobex.metrics.counterfactuals import MEANS, explanation_measures


def row(attribute="stop", flipped=True, agrees=True, failed=False, value=1.0):
    fixed = {"attribute": attribute, "flipped": flipped, "flipped_full": flipped and value > 2, "failed": failed}
    fixed |= {"verdict": "flipped" if flipped else "failed" if failed else "not flipped", "changed_blobs": ["1", "4"]}
    fixed |= {"reconstruction_agrees": agrees, "gate": "" if agrees else "already decided otherwise"}
    return fixed | dict.fromkeys(MEANS, value)


def test_counts_and_means():
    rows = [
        row(value=1.0),
        row(agrees=False, value=3.0),
        row("left", flipped=False, value=5.0),
        row("left", flipped=False, agrees=False, failed=True, value=float("nan")),
    ]
    measures = explanation_measures(rows, "pd_parser")
    assert measures["explanations"] == 4
    assert measures["flip_rate"] == 0.5
    assert measures["flipped_by_change"] == 0.25
    assert measures["flipped_full"] == 0.25
    assert measures["gated"] == 0.5
    assert measures["changed_blobs"] == 2
    assert measures["reconstruction_agrees"] == 0.5
    assert (measures["flip_rate_stop"], measures["flip_rate_left"]) == (1.0, 0.0)
    assert measures["failed"] == 0.25
    assert measures["pd_parser"] == measures["reconstruction_pd_parser"] == 3.0  # the failed one's NaN is left out


def test_all_failed_has_no_means():
    measures = explanation_measures([row(flipped=False, failed=True)], "pd_parser")
    assert measures["flip_rate"] == 0 and "pd_parser" not in measures


def test_empty_table():
    with pytest.raises(BlobexError, match="empty"):
        explanation_measures([], "pd_parser")
