"""Code files of stages: blind to texts that change nothing, and to nothing else."""

import pytest
from imports import PACKAGE

from blobex.core import code_state
from blobex.core.code_state import check_stage, code_digest, describe_stage, module_hashes, write_stage
from blobex.core.errors import BlobexError

SPLAT = '''
"""Splatting."""
from house.layout import blobs

AREA = 0.004


def area(side: float) -> float:
    """The area."""
    return side * AREA  # square
'''
HOUSE = {
    "__init__.py": "from house.explain import Explainer",
    "explain.py": "class Explainer: ...",
    "layout/__init__.py": '"""Blobs."""',
    "layout/blobs.py": "COUNT = 3",
    "layout/splat.py": SPLAT,
    "networks/__init__.py": "DEPTH = 2",
    "networks/ops.py": "import math",
    "stages/paint.py": "from house.layout.splat import area\n\n\ndef main():\n    import house.networks.ops",
    "stages/parse.py": "from house.tracking import runs\nfrom house.networks import ops",
    "tracking/runs.py": "from house.layout import splat",
}
PAINT = ["layout/blobs", "layout/splat", "networks/__init__", "networks/ops", "stages/paint"]


@pytest.fixture
def house(tmp_path):
    for name, content in HOUSE.items():
        write(tmp_path / "house" / name, content)
    return tmp_path / "house"


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def test_stage_reaches_all_modules_that_it_imports(house):
    lines = describe_stage("paint", house).splitlines()
    assert [line.split()[0] for line in lines] == [f"house/{name}.py" for name in PAINT]


def test_tracking_and_public_names_are_left_out(house):
    assert list(module_hashes(house / "stages" / "parse.py", house)) == [
        "house/networks/__init__.py",
        "house/networks/ops.py",
        "house/stages/parse.py",
    ]


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("  # square", "", True),
        ("The area.", "The area, in metres.\n\n    >>> area(2)\n    4\n    ", True),
        ('    """The area."""\n', "", True),
        ('    """The area."""\n', '    "the area"\n    "in metres"\n', True),
        ("side * AREA", "(side  *  AREA)", True),
        ("side * AREA", "side**AREA", False),
        ("(side: float)", "(side: int)", False),
        ("(side: float)", "(side: float = 1)", False),
        ("0.004", "0.005", False),
        ("return side", "return -side", False),
        ("return side * AREA", "return None", False),
        ("return side * AREA", "return 'The area.'", False),
    ],
)
def test_comments_and_docstrings_change_no_file_and_code_does(house, old, new, same):
    before = describe_stage("paint", house)
    assert old in SPLAT
    write(house / "layout" / "splat.py", SPLAT.replace(old, new))
    assert (describe_stage("paint", house) == before) == same


def test_description_of_a_field_changes_no_file_and_its_bounds_do(house):
    def digest(field):
        write(house / "layout" / "blobs.py", f"COUNT = Field({field})")
        return code_digest(house / "layout" / "splat.py", house)

    assert digest("3, ge=1, description='blobs'") == digest("3, ge=1, description='how ' f'many'")
    assert digest("3, ge=1, description='blobs'") != digest("3, ge=2, description='blobs'")


def test_description_of_anything_else_counts(house):
    def digest(description):
        write(house / "layout" / "blobs.py", f"COUNT = count(description={description!r})")
        return code_digest(house / "layout" / "splat.py", house)

    assert digest("blobs") != digest("segments")


def test_file_is_written_when_code_changed(house, tmp_path):
    assert write_stage("paint", tmp_path / "code", house)
    assert not write_stage("paint", tmp_path / "code", house)
    check_stage("paint", tmp_path / "code", house)
    write(house / "networks" / "ops.py", "import cmath")
    with pytest.raises(BlobexError, match=r"stage paint changed since .*paint.txt was written: run `make code`"):
        check_stage("paint", tmp_path / "code", house)
    assert write_stage("paint", tmp_path / "code", house)
    check_stage("paint", tmp_path / "code", house)


def test_stage_without_a_file_is_not_checked(house, tmp_path):
    check_stage("paint", tmp_path / "code", house)


def test_relative_imports_are_refused(house):
    write(house / "layout" / "splat.py", "from . import blobs")
    with pytest.raises(ValueError, match=r"splat.py: it imports relatively"):
        describe_stage("paint", house)


def test_a_constant_of_splat_reaches_the_stages_with_blobs(tmp_path):
    """The real package: only what draws blobs depends on how they are drawn."""
    drawing = {"blobgan_pretrain", "blobgan", "encoder_pretrain", "encoder", "invert", "explain", "evaluate", "truth"}
    others = {"scenes", "parser", "decision", "fid_stats"}
    reaching = {stage for stage in drawing | others if "blobex/layout/splat.py " in describe_stage(stage, PACKAGE)}
    assert reaching == drawing


def test_kept_modules_are_those_of_the_source(house, tmp_path, monkeypatch):
    """Another process takes what this one has parsed, also of a changed source; damage is parsed again."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def of_a_new_process():
        for function in (code_state._kept_modules, code_state._parse):
            function.cache_clear()
        return module_hashes(house / "stages" / "paint.py", house)

    first = of_a_new_process()
    with monkeypatch.context() as patch:
        patch.setattr(code_state, "_parsed", None)
        assert of_a_new_process() == first
    write(house / "layout/blobs.py", "COUNT = 4")
    changed = of_a_new_process()
    assert [path for path in first if changed[path] != first[path]] == ["house/layout/blobs.py"]
    (kept,) = (tmp_path / "blobex").iterdir()
    for damage in ("{", "[]", kept.read_text().replace("[[", "[7, [")):
        kept.write_text(damage)
        assert of_a_new_process() == changed
