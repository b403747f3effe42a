"""Search spaces, and the best values in a parameter file."""

import pytest
import yaml
from worlds.profiles import params_text, profile_params

from blobex.config.read import load_params
from blobex.config.sweeps import Range
from blobex.config.write import replace_values
from blobex.core.errors import BlobexError
from blobex.sweeps.best import apply
from blobex.sweeps.study import check_space, clamp, widen


def test_ranges():
    wide = widen({"a": Range(1, 2, True, False)}, {"x": {"a": 0}, "y": {"a": 5}})
    assert wide["a"] == Range(1, 5, True, False)
    assert clamp({"a": Range(1, 5, True, True)}, {"a": 0, "b": 3}) == {"a": 1}
    for bad, message in (
        ({"a": Range(2, 1, False, False)}, "low must be below high"),
        ({"a": Range(0, 1, True, False)}, "above 0"),
        ({"a": Range(0.5, 1, True, True)}, "whole numbers"),
        ({"travel": Range(1, 2, True, False), "learning_rate": Range(1, 2, True, False)}, "leave learning_rate out"),
        ({}, "empty"),
    ):
        with pytest.raises(BlobexError, match=message):
            check_space(bad, "sweep_cf")


def test_apply_changes_the_numbers_and_nothing_else(tmp_path):
    path, best = tmp_path / "params.yaml", tmp_path / "best.yaml"
    text, smoke = params_text("smoke"), profile_params("smoke")
    path.write_text(text)
    values = {"explain.rect.learning_rate": 1e-05, "explain.rect.steps": 33, "explain.rect.lambda_key.xs": 7.5}
    best.write_text(yaml.safe_dump({"values": values}))
    changes = apply(best, path)
    assert changes["explain.rect.steps"] == (smoke.explain.rect.steps, 33)
    setup = load_params(path).explain.rect
    assert (setup.learning_rate, setup.steps, setup.lambda_key["xs"]) == (1e-05, 33, 7.5)
    changed = [(a, b) for a, b in zip(text.splitlines(), path.read_text().splitlines(), strict=True) if a != b]
    assert len(changed) == 3 and all(a.partition("#")[1:] == b.partition("#")[1:] for a, b in changed)
    assert load_params(path).explain.square == smoke.explain.square
    before = path.read_text()
    best.write_text(yaml.safe_dump({"values": {"explain.rect.steps": 0}}))
    with pytest.raises(BlobexError, match=r"explain\.rect\.steps is 0"):
        apply(best, path)
    with pytest.raises(BlobexError, match=r"no key explain\.rect\.stride"):
        replace_values(text, {"explain.rect.stride": 1})
    with pytest.raises(BlobexError, match="run the sweep first"):
        apply(tmp_path / "none.yaml", path)
    assert path.read_text() == before
