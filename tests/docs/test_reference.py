"""Generated reference pages: completeness and ranges. All pages: every command and option in them exists."""

import copy
import re
import typing
from pathlib import Path

import pytest
import yaml

from blobex.config.params import Params
from blobex.config.read import parse
from blobex.core.errors import BlobexError

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
RANGE = re.compile(r"^(whole )?number from (\S+) to (\S+)$")


@pytest.fixture
def generate(monkeypatch):
    """Import the package that generates the reference."""
    monkeypatch.syspath_prepend(ROOT / "docs")
    from generate import api, commands, parameters, stages

    return {"api": api, "commands": commands, "parameters": parameters, "stages": stages}


@pytest.fixture
def tree():
    return yaml.safe_load((ROOT / "profiles" / "synthetic.yaml").read_text())


def leaves(tree, prefix=""):
    """Return all values of nested mappings by their dotted keys."""
    if not isinstance(tree, dict):
        return {prefix[:-1]: tree}
    return {name: value for key, node in tree.items() for name, value in leaves(node, f"{prefix}{key}.").items()}


def table(page):
    """Return the other cells of each table row by its first cell, without code marks."""
    rows = [
        [cell.strip(" `") for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:3] == "| `"
    ]
    return {first: cells for first, *cells in rows}


def test_every_parameter_has_a_row_with_default_range_and_description(generate, tree):
    rows = table(generate["parameters"].page(ROOT))
    for key, value in leaves(tree).items():
        row = next((name for name in (key, key.rsplit(".", 1)[0], key.rsplit(".", 2)[0]) if name in rows), None)
        assert row, f"{key} is missing"
        default, _, allowed, description = rows[row]
        documented = yaml.safe_load(default)
        if row != key:  # a mapping whose keys the user may choose
            for name in key.removeprefix(f"{row}.").split("."):
                documented = documented[int(name) if name.isdigit() else name]
        assert documented == value, key
        assert allowed and description, f"{key} has no description: give its field in blobex.config one"


def test_documented_ranges_are_enforced(generate, tree):
    rows = table(generate["parameters"].page(ROOT))
    ranges = {key: match for key, cells in rows.items() if (match := RANGE.match(cells[2]))}
    assert len(ranges) > 100
    kinds = typing.get_type_hints(Params)
    for key, (whole, *ends) in ((key, match.groups()) for key, match in ranges.items()):
        section, *path, last = key.split(".")
        low, high = ((int if whole else float)(end.replace(",", "")) for end in ends)
        for value, accepted in ((low, True), (high, True), (low - 1, False), (high + 1, False)):
            node = changed = copy.deepcopy(tree[section])
            for name in path:
                node = node[name]
            node[last] = value
            if accepted:
                parse(kinds[section], changed, section)
            else:
                with pytest.raises(BlobexError, match=re.escape(key)):
                    parse(kinds[section], changed, section)


def test_every_stage_has_a_section_with_its_outputs_and_parameters(generate):
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    page = generate["stages"].page(ROOT)
    sections = dict(re.findall(r"^## (\S+)\n((?:(?!## ).*\n?)*)", page, re.MULTILINE))
    assert list(sections) == list(stages)
    for name, stage in stages.items():
        for entry in [*stage.get("outs", []), *stage.get("metrics", []), *stage["params"]]:
            path = re.sub(r"\$\{(item\.)?(.*?)\}", r"<\2>", entry if isinstance(entry, str) else next(iter(entry)))
            assert f"`{path}`" in sections[name], (name, path)


def test_api_pages_show_code_as_code_and_contain_no_html(generate):
    pages = generate["api"].pages(ROOT)
    assert "def splat(layout: BlobLayout, height: int, width: int, area: float = AREA) -> Tensor" in pages["api/layout"]
    assert "xs: Tensor  # N,K: centre, 0 left to 1 right" in pages["api/layout"]
    for name, page in pages.items():
        prose = re.split(r"```(?:.|\n)*?```|`[^`]*`", page)
        assert not any("<" in part or ">>>" in part for part in prose), name


def command_lines(text):
    """Return the commands in the bash blocks of a page, with continued lines joined and without comments."""
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [part.strip() for line in lines for part in re.split(r"&&|\||;", line.split(" #")[0]) if part.strip()]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_commands_options_and_targets_exist(generate, path):
    helps = dict(generate["commands"].helps())
    targets = dict(generate["commands"].targets(ROOT))
    for line in command_lines(path.read_text()):
        words = line.split()
        if words[0] == "make":
            assert not {word for word in words[1:] if re.fullmatch(r"[a-z0-9-]+", word)} - set(targets), line
        elif words[0] == "blobex":
            name = max((name for name in helps if f"{line} ".startswith(f"{name} ")), key=len)
            options = {word.split("=")[0] for word in words if word.startswith("--")}
            unknown = {option for option in options if not re.search(rf"(?<!\S){option}(?![a-z-])", helps[name])}
            assert (name != "blobex" or options) and not unknown, (line, unknown)
