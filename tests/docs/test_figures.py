"""Measured figures in the documents: they agree with the files, and `make figures` renews them."""

from __future__ import annotations

import hashlib
import importlib
import json

import pytest
from imports import ROOT

from blobex.core.errors import BlobexError
from blobex.truth.control import CONTROL
from blobex.truth.results import OURS_SAME

BLOCK = "# Page\n\n<!-- figures: {} -->\nold\n<!-- end -->\nafter\n"
TRUTH = {"control_ours_validity": 0.92, "control_ours_validity_low": 0.8, "control_ours_validity_high": 0.96}
TRUTH |= {"control_ours_validity_count": 32.0, "night_ours_validity": 0.5, "night_published_validity": 0.25}
TRUTH |= {"night_ours_phrases": 111.0, "night_ours_interventions": 30.0, "night_ours_effect_rank": 1.0}


@pytest.fixture
def figures(monkeypatch):
    """Import the module that generates the figures."""
    monkeypatch.syspath_prepend(ROOT / "docs")
    return importlib.import_module("generate.figures")


@pytest.fixture
def project(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("no figures\n")
    return tmp_path


def keep(project, path, measures):
    (project / path).parent.mkdir(parents=True, exist_ok=True)
    (project / path).write_text(json.dumps(measures))


def test_documents_agree_with_the_files(figures):
    assert [path.name for path, _ in figures.outdated(ROOT)] == []


def test_figures_of_this_repository_are_found_without_a_pull(figures):
    found = figures.Files(ROOT).measures("evaluate", "rect")
    assert 0 < found["flip_rate_low"] <= found["flip_rate"] <= 1


def test_names_of_the_truth_benchmark(figures):
    assert (figures.CONTROL, figures.OURS_SAME) == (CONTROL, OURS_SAME)


def test_blocks_are_renewed_once_and_the_rest_stays(figures, project, capsys):
    page = project / "docs" / "page.md"
    page.write_text(BLOCK.format("truly-flipped"))
    keep(project, "reports/truth/square/metrics.json", {"plain_ours_validity": 0.1})  # headlines
    keep(project, "reports/truth/square/measures.json", TRUTH)
    assert figures.main(True, project) == 1 and "docs/page.md" in capsys.readouterr().out
    assert page.read_text() == BLOCK.format("truly-flipped")
    assert figures.main(False, project) == 0 and figures.main(True, project) == 0
    text = page.read_text()
    assert text.startswith("# Page\n\n<!-- figures") and text.endswith("<!-- end -->\nafter\n") and "old" not in text
    assert "| `square`, control | 92% [80, 96], n = 32 | - | - | - | - |" in text
    assert "| `square`, night | **50%** | - | 25% | - | - |" in text
    assert "plain |" not in text and "Not measured: run `dvc repro truth@rect`." in text


def test_ranks_count_the_candidates(figures, project):
    keep(project, "reports/truth/rect/measures.json", TRUTH)
    (row,) = (
        line for line in figures.BLOCKS["shortcuts"](figures.Files(project)).splitlines() if "`rect`, night" in line
    )
    assert row.startswith("| `rect`, night | **none of 111** | - | 1 of 30 |")


def test_repairs_have_a_row_for_each_source(figures, project):
    measures = {"before_worst_group": 0.3, "before_images": 0.0, "before_wrong": 0.0, "before_accuracy": 0.9}
    measures |= {
        "ours_worst_group": 0.96,
        "ours_worst_group_low": 0.9,
        "ours_worst_group_high": 0.99,
        "ours_gain": 0.94,
    }
    keep(project, "models/repair/square/night/metrics.json", measures)
    text = figures.BLOCKS["repair"](figures.Files(project))
    assert "| `square`, night | nothing (before the repair) | 0 | 0% | 30% | - | 90% |" in text
    assert "| `square`, night | ours | - | - | 96% [90, 99] | 0.94 | - |" in text
    assert "`dvc repro repair@rect-night`" in text and "repair@square-night" not in text


def test_files_that_are_not_here_come_from_the_store(figures, project):
    content = json.dumps({"flip_rate": 0.5})
    digest = hashlib.md5(content.encode()).hexdigest()
    path = "reports/evaluate/rect/measures.json"
    (project / "dvc.lock").write_text(f"    - path: {path}\n      hash: md5\n      md5: {digest}\n      size: 18\n")
    assert figures.Files(project).measures("evaluate", "rect") == {}
    keep(project, f"models/store/files/md5/{digest[:2]}/{digest[2:]}", {"flip_rate": 0.5})
    assert figures.Files(project).measures("evaluate", "rect") == {"flip_rate": 0.5}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (BLOCK.format("speeed"), "no block `speeed`"),
        ("<!-- figures: rates -->\n", "not of the form"),
        ("<!-- figures: rates -->\n" + BLOCK.format("repair"), "`rates` has no"),
    ],
)
def test_a_wrong_block_is_refused_with_its_page(figures, project, text, problem):
    page = project / "docs" / "page.md"
    page.write_text(text)
    with pytest.raises(BlobexError, match=rf"^docs/page.md: .*{problem}"):
        figures.main(False, project)
    assert page.read_text() == text


def test_a_damaged_file_is_named(figures, project):
    (project / "docs" / "page.md").write_text(BLOCK.format("searches"))
    (project / "reports/bench/square").mkdir(parents=True)
    (project / "reports/bench/square/metrics.json").write_text("{")
    with pytest.raises(BlobexError, match=r"reports/bench/square/metrics\.json is damaged"):
        figures.main(False, project)
