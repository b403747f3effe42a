"""The pages about the project: what they leave out, and whether what they tell people to type exists."""

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
WRITTEN = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
LIMITED = re.compile(r"^(whole )?number from (\S+) to (\S+)$")


@pytest.fixture
def generate(monkeypatch):
    """The package that writes the reference."""
    monkeypatch.syspath_prepend(ROOT / "docs")
    from generate import api, commands, parameters, stages

    return {"api": api, "commands": commands, "parameters": parameters, "stages": stages}


@pytest.fixture
def tree():
    return yaml.safe_load((ROOT / "profiles" / "synthetic.yaml").read_text())


def leaves(tree, prefix=""):
    if not isinstance(tree, dict):
        return {prefix[:-1]: tree}
    return {name: value for key, node in tree.items() for name, value in leaves(node, f"{prefix}{key}.").items()}


def table(page):
    """Cells of each row by its first cell, without code marks."""
    rows = [
        [cell.strip(" `") for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:3] == "| `"
    ]
    return {first: cells for first, *cells in rows}


def test_every_parameter_is_there_with_its_default_and_its_meaning(generate, tree):
    rows = table(generate["parameters"].page(ROOT))
    for key, value in leaves(tree).items():
        holder = next((name for name in (key, key.rsplit(".", 1)[0], key.rsplit(".", 2)[0]) if name in rows), None)
        assert holder, f"{key} is missing"
        default, _, allowed, meaning = rows[holder]
        found = yaml.safe_load(default)
        if holder != key:  # a mapping whose keys the user may choose
            for name in key.removeprefix(f"{holder}.").split("."):
                found = found[int(name) if name.isdigit() else name]
        assert found == value, key
        assert allowed and meaning, f"nothing is said of {key}: give its field in blobex.config a comment"


def test_ranges_are_those_that_are_enforced(generate, tree):
    rows = table(generate["parameters"].page(ROOT))
    limited = {key: found for key, cells in rows.items() if (found := LIMITED.match(cells[2]))}
    assert len(limited) > 100
    kinds = typing.get_type_hints(Params)
    for key, (whole, *ends) in ((key, found.groups()) for key, found in limited.items()):
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


def test_every_stage_is_there_with_what_it_reads_and_writes(generate):
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    page = generate["stages"].page(ROOT)
    parts = dict(re.findall(r"^## (\S+)\n((?:(?!## ).*\n?)*)", page, re.MULTILINE))
    assert list(parts) == list(stages)
    for name, told in stages.items():
        for entry in [*told.get("outs", []), *told.get("metrics", []), *told["params"]]:
            path = re.sub(r"\$\{(item\.)?(.*?)\}", r"<\2>", entry if isinstance(entry, str) else next(iter(entry)))
            assert f"`{path}`" in parts[name], (name, path)


def test_examples_are_code_and_nothing_is_html(generate):
    pages = generate["api"].pages(ROOT)
    assert "def splat(layout: BlobLayout, height: int, width: int, area: float = AREA) -> Tensor" in pages["api/layout"]
    assert "xs: Tensor  # N,K: centre, 0 left to 1 right" in pages["api/layout"]
    for name, page in pages.items():
        apart = re.split(r"```(?:.|\n)*?```|`[^`]*`", page)
        assert not any("<" in part or ">>>" in part for part in apart), name


def typed(text):
    """The command lines in the bash blocks of a page, continued lines joined, comments left out."""
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [part.strip() for line in lines for part in re.split(r"&&|\||;", line.split(" #")[0]) if part.strip()]


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.name)
def test_what_people_should_type_exists(generate, path):
    helps = dict(generate["commands"].helps())
    targets = dict(generate["commands"].targets(ROOT))
    for line in typed(path.read_text()):
        words = line.split()
        if words[0] == "make":
            assert not {word for word in words[1:] if re.fullmatch(r"[a-z0-9-]+", word)} - set(targets), line
        elif words[0] == "blobex":
            name = max((name for name in helps if f"{line} ".startswith(f"{name} ")), key=len)
            asked = {word.split("=")[0] for word in words if word.startswith("--")}
            unknown = {option for option in asked if not re.search(rf"(?<!\S){option}(?![a-z-])", helps[name])}
            assert (name != "blobex" or asked) and not unknown, (line, unknown)
