"""The built site: it is whole, it needs no network, and no link in it is dead."""

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
    """What a page links to, what it loads, and the anchors that it has."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links, self.loads, self.anchors, self.classes = set(), set(), set(), set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        self.classes |= set((given.get("class") or "").split())
        self.loads |= {given[name] for kind, name in LOADED if kind == tag and given.get(name)}
        if tag == "link" and given.get("rel") not in ("canonical", "next", "prev"):
            self.loads.add(given["href"])
        if tag == "a" and given.get("href"):
            self.links.add(given["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return {path.resolve(): Page(path) for path in folder.rglob("*.html")}


@pytest.mark.slow
def test_nothing_is_loaded_from_elsewhere(site):
    assert len(site) > 20
    for path, page in site.items():
        remote = {each for each in page.loads if re.match(r"[a-z]+:|//", each) and not each.startswith("data:")}
        assert not remote, (path.name, remote)
        assert "mermaid" not in page.classes  # whose script the theme would load
    folder = next(path.parent for path in site if path.name == "404.html")
    for sheet in folder.rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//|@import", sheet.read_text()), sheet
    for picture in folder.rglob("*.svg"):
        assert not re.search(r"(href|src)=[\"'](https?:)?//", picture.read_text()), picture


@pytest.mark.slow
def test_links_lead_somewhere(site):
    for path, page in site.items():
        for link in page.links | page.loads:
            if re.match(r"[a-z]+:|//", link) or path.name == "404.html":  # served for any address, so it links from /
                continue
            file, anchor = urldefrag(unquote(link))
            target = (path.parent / file).resolve() if file else path
            assert target.is_file(), (path.name, link)
            if anchor and target in site:
                assert anchor in site[target].anchors, (path.name, link)
