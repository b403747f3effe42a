"""The built documentation: it loads nothing from other hosts and has no dead link."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

ROOT = Path(__file__).parents[2]
LOADED = {
    ("script", "src"),
    ("img", "src"),
    ("iframe", "src"),
    ("source", "src"),
    ("object", "data"),
    ("image", "href"),
}


class Page(HTMLParser):
    """Links, loaded files, anchors and classes of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links, self.loads, self.anchors, self.classes = set(), set(), set(), set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.anchors |= {values[name] for name in ("id", "name") if values.get(name)}
        self.classes |= set((values.get("class") or "").split())
        self.loads |= {values[name] for kind, name in LOADED if kind == tag and values.get(name)}
        if tag == "link" and values.get("rel") not in ("canonical", "next", "prev"):
            self.loads.add(values["href"])
        if tag == "a" and values.get("href"):
            self.links.add(values["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return {path.resolve(): Page(path) for path in folder.rglob("*.html")}


@pytest.mark.slow
def test_pages_load_nothing_from_other_hosts(site):
    assert len(site) > 20
    for path, page in site.items():
        remote = {link for link in page.loads if re.match(r"[a-z]+:|//", link) and not link.startswith("data:")}
        assert not remote, (path.name, remote)
        assert "mermaid" not in page.classes  # the theme loads its script from a CDN
    folder = next(path.parent for path in site if path.name == "404.html")
    for sheet in folder.rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//|@import", sheet.read_text()), sheet
    for image in folder.rglob("*.svg"):
        assert not re.search(r"(href|src)=[\"'](https?:)?//", image.read_text()), image


@pytest.mark.slow
def test_no_link_is_dead(site):
    for path, page in site.items():
        for link in page.links | page.loads:
            if re.match(r"[a-z]+:|//", link) or path.name == "404.html":  # the links of 404.html are absolute
                continue
            file, anchor = urldefrag(unquote(link))
            target = (path.parent / file).resolve() if file else path
            assert target.is_file(), (path.name, link)
            if anchor and target in site:
                assert anchor in site[target].anchors, (path.name, link)
