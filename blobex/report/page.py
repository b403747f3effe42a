"""The report as one HTML page that loads nothing, so that it works offline and can be sent as it is."""

from __future__ import annotations

import math

from jinja2 import Environment, PackageLoader, StrictUndefined

from blobex.report.figures import number, overview, questions, stage_tables
from blobex.report.gallery import SORTS, gallery
from blobex.report.results import Report


def page(report: Report) -> str:
    """Render the page; every text is escaped."""
    loader = PackageLoader("blobex.report")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "share": _share}
    explained = [f"explain-{results.setup}-{results.variant}" for results in report.results]
    stages = [f"{stage.split()[0]}-..." for stage in report.measures if not stage.startswith("explain")]
    return environment.get_template("page.html").render(
        report=report,
        overview=overview(report),
        questions=[(results, questions(results, report.seed)) for results in report.results],
        gallery=gallery(report),
        sorts=SORTS,
        stage_tables=stage_tables(report),
        run_names=list(dict.fromkeys([*explained, *stages])),
    )


def _share(score: float) -> str:
    """Format a score as the share of a bar's width, clamped to [0, 1]."""
    return f"{min(max(score, 0.0), 1.0) if math.isfinite(score) else 0.0:.3f}"
