"""The report: one HTML page that holds all it shows, so that it works offline and can be sent as it is."""

from __future__ import annotations

from importlib.resources import files
from string import Template

from blobex.core.files import without_password
from blobex.report.page_figures import overview, stages, whole_set
from blobex.report.page_gallery import gallery
from blobex.report.page_markup import Markup, joined, tag
from blobex.report.page_results import Report

SQLITE = "sqlite:"
INTERVALS = (
    "Brackets hold 95% bootstrap intervals, each explanation a value of its own. A failed search counts as not flipped "
    "and has no distance. Flips by the change are those whose reconstruction stands for the photo."
)


def page(report: Report) -> str:
    """The page as HTML; everything in it is escaped, and it loads nothing."""
    folder = files("blobex.report")
    parts = {name: (folder / f"page.{name}").read_text(encoding="utf-8") for name in ("html", "css", "js")}
    return Template(parts["html"]).substitute(
        style=parts["css"],
        script=parts["js"],
        missing=_missing(report),
        overview=joined(tag("p", {}, INTERVALS), overview(report)),
        whole_set=whole_set(report),
        truth=_truth(report),
        stages=stages(report),
        runs=_runs(report),
        gallery=gallery(report),
    )


def _missing(report: Report) -> Markup:
    if not report.missing:
        return joined()
    told = tag("ul", {}, *(tag("li", {}, each) for each in report.missing))
    return tag("details", {"class": "missing"}, tag("summary", {}, f"Not there yet: {len(report.missing)}"), told)


def _truth(report: Report) -> Markup:
    if not report.truth:
        return tag("p", {}, "Not measured yet: run `dvc repro truth`.")
    return joined(*(_table(setup, text) for setup, text in report.truth.items()))


def _table(setup: str, text: str) -> Markup:
    frame = {"class": "wide", "tabindex": "0", "role": "region", "aria-label": f"Truth benchmark, {setup}"}
    return joined(tag("h3", {}, setup), tag("div", frame, tag("pre", {}, text)))


def _runs(report: Report) -> Markup:
    if report.tracking is None:
        return tag("p", {}, "Nothing is tracked: run.tracking_uri is none.")
    shown = without_password(report.tracking)
    if report.tracking.startswith(SQLITE):
        where = joined("run ", tag("code", {}, "make ui"), f" ({report.tracking})")
    elif report.tracking.startswith(("http://", "https://")):
        where = tag("a", {"href": shown, "rel": "noreferrer"}, shown)
    else:
        where = tag("code", {}, shown)
    kinds = [f"explain-{each.setup}-{each.variant}" for each in report.results]
    stages = [f"{stage.split()[0]}-..." for stage in report.figures if not stage.startswith("explain")]
    names = ", ".join(dict.fromkeys([*kinds, *stages]))
    told = f". Each stage is an experiment; its runs are called {names}."
    return tag("p", {}, "The runs are kept by MLflow: ", where, told)
