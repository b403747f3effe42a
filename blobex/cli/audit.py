"""Command `blobex audit`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from blobex.cli.options import Device, GuessedSetup, Models, OwnParamsFile
from blobex.core.errors import BlobexError

if TYPE_CHECKING:
    from blobex.explain.audit import Dependence
    from blobex.report.audit_page import AuditSection

PAGE, TABLE, KEPT = "audit.html", "audit.json", "interventions"


def audit(
    folder: Annotated[Path, Argument(metavar="FOLDER", help="Folder of images of roads; 64 are a good number.")],
    out: Annotated[Path, Option(help="Folder for the page and the changed images; a stopped audit continues there.")],
    setup: GuessedSetup = None,
    decision: Annotated[str | None, Option(help="Model: plain, night, FILE.pt2, card.yaml, FILE.py:name, ...")] = None,
    device: Device = None,
    models: Models = Path("models"),
    params: OwnParamsFile = None,
) -> None:
    """Find out on what a model's decisions about the images in FOLDER depend, by changing one thing at a time.

    OUT gets audit.html, with an example of each cause, audit.json and the changed images (interventions/).
    """
    from blobex.cli import preflight
    from blobex.core.files import write_text
    from blobex.explain.audit import audit as measure
    from blobex.explain.audit import sentences
    from blobex.explain.explainer import Explainer
    from blobex.report.audit_page import audit_page

    others = [path.name for path in out.iterdir()] if out.is_dir() else []
    if out.is_file() or set(others) - {PAGE, TABLE, KEPT}:
        raise BlobexError(f"{out} holds other files than those of an audit: give a new or an empty folder")
    preflight.check_photos([folder])
    values = preflight.load(params, models)
    explainer = Explainer.load(
        preflight.choose_setup(setup, [folder], models, values), models, values, device, decision
    )
    result = measure(explainer, folder, out / KEPT)
    found, told = result.dependences, sentences(result.dependences)
    write_text(out / TABLE, json.dumps([_row(each) for each in found], indent=2) + "\n")
    write_text(out / PAGE, audit_page(explainer.decision.name, str(folder), result.images, _sections(found, told)))
    print("\n".join(told))
    print(out / PAGE)


def _sections(found: Sequence[Dependence], told: Sequence[str]) -> list[AuditSection]:
    from blobex.report.audit_page import AuditSection
    from blobex.report.causes import Cause

    sections = []
    for output, sentence in zip(dict.fromkeys(each.output for each in found), told, strict=True):
        own = [each for each in found if each.output == output]
        rows = [
            Cause(
                output=output,
                factor=each.factor,
                effect=each.effect,
                images=each.images,
                example=Path(each.example.image).name,
                phrase=each.example.phrase,
                off=each.example.off,
                on=each.example.on,
                decisions=each.decisions,
                proven=each.verified,
            )
            for each in own
            if each.verified or each.likely
        ]
        listed = {row.factor for row in rows}
        others = [(each.factor, f"{each.text}, {each.images} images") for each in own if each.factor not in listed]
        sections.append(AuditSection(output, sentence, rows, others))
    return sections


def _row(each: Dependence) -> dict[str, Any]:
    """Convert to JSON."""
    from blobex.metrics.interval import flat

    shares = {"necessity": each.effect.necessity, "sufficiency": each.effect.sufficiency}
    values = {"effect": each.effect.effect} | {name: share for name, share in shares.items() if share is not None}
    names = {"output": each.output, "factor": each.factor, "verified": each.verified, "images": each.images}
    return names | flat(values) | {"example": each.example.image, "phrase": each.example.phrase}
