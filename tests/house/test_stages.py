"""Stages share their name with a module, a section of params.yaml and a code file."""

import pytest
import yaml
from imports import ROOT

from blobex.core.code_state import LEFT_OUT

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
SECTIONS = yaml.safe_load((ROOT / "params.yaml").read_text())


@pytest.mark.parametrize("stage", STAGES)
def test_stage_module_section_and_code_file_share_a_name(stage):
    command = STAGES[stage]["cmd"]
    assert command.startswith(f"python -m blobex.stages.{stage}")
    assert (ROOT / "blobex" / "stages" / f"{stage}.py").is_file() and stage in SECTIONS
    code = [dep for dep in STAGES[stage]["deps"] if dep.startswith(("blobex", "code"))]
    assert code == [f"code/{stage}.txt"]


def test_code_that_is_left_out_exists():
    assert all((ROOT / "blobex" / name).exists() for name in LEFT_OUT)


def test_no_stage_reads_the_parameters_of_sweeps():
    """blobex/config/sweeps.py is left out of code files."""
    assert not [name for stage in STAGES.values() for name in stage["params"] if name.startswith("sweep")]


def test_only_measuring_stages_depend_on_the_witnesses():
    """Networks that are explained, or that search, are trained without them."""
    readers = {name for name, stage in STAGES.items() if any("models/witness" in dep for dep in stage["deps"])}
    assert readers <= {"explain", "evaluate", "truth"}
    assert {"parser", "decision", "blobgan_pretrain", "blobgan", "encoder_pretrain", "encoder"} <= set(STAGES)
