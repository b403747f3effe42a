"""`blobex explain`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from blobex.core.errors import BlobexError

if TYPE_CHECKING:
    from blobex.explain.explanation import Explanation


def explain(
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO...", help="Pictures of any size, or folders of them.")],
    out: Annotated[Path, typer.Option(help="Folder for the results; a run that was stopped goes on there.")],
    setup: Annotated[str, typer.Option(help="Shape of the pictures: square or rect.")] = "rect",
    attribute: Annotated[
        list[str] | None,
        typer.Option(
            "--attribute", "--to", help="What should change, or win: an output of the model (ours: forward, stop, ...)."
        ),
    ] = None,
    region: Annotated[
        str | None,
        typer.Option(help="For segmentation: left,top,right,bottom as shares of the picture; the whole if not given."),
    ] = None,
    replaced: Annotated[
        str | None, typer.Option("--from", help="For segmentation: the class to replace; the commonest if not given.")
    ] = None,
    variant: Annotated[str, typer.Option(help="Ready-made choices: basic, targeted or diverse.")] = "basic",
    keys: Annotated[
        list[str] | None, typer.Option(help="What may change: position, size, shape, appearance, style, or a key.")
    ] = None,
    blobs: Annotated[list[int] | None, typer.Option(help="Blobs that may change; `blobex blobs` numbers them.")] = None,
    only: Annotated[
        str | None,
        typer.Option(help="Where something may change: 'car ahead', left,top,right,bottom, 'x,y x,y x,y', or a mask."),
    ] = None,
    background: Annotated[
        bool | None, typer.Option(help="Whether the background may change; not if blobs or a place are named.")
    ] = None,
    few: Annotated[bool | None, typer.Option("--few/--all", help="As few blobs as will do, or all that help.")] = None,
    count: Annotated[
        int | None, typer.Option("--diverse", metavar="K", help="K counterfactuals each, with blobs of their own.")
    ] = None,
    compose: Annotated[
        str | None, typer.Option(help="photo: the change is laid over the photo; full: all is rendered anew.")
    ] = None,
    gate: Annotated[
        str | None, typer.Option(help="What to do where the reconstruction decides otherwise: report, refine or skip.")
    ] = None,
    gif: Annotated[bool, typer.Option("--gif", help="Also a film from each photo to its counterfactual.")] = False,
    format_: Annotated[
        str, typer.Option("--format", help="published: also metadata_<i>.pt as the published scripts write it.")
    ] = "blobex",
    replace: Annotated[bool, typer.Option("--replace", help="Remove results of other settings from OUT.")] = False,
    steps: Annotated[int | None, typer.Option(help="Steps of the search.")] = None,
    lambda_prox: Annotated[float | None, typer.Option(help="Price of change.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of all keys but sizes.")] = None,
    decision: Annotated[
        str | None, typer.Option(help="Model to explain: plain, biased, FILE.pt2, card.yaml, module:name, ...")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    models: Annotated[Path, typer.Option(help="Folder of the trained networks.")] = Path("models"),
    params: Annotated[Path, typer.Option(help="Parameter file; gives what no option says.")] = Path("params.yaml"),
) -> None:
    """Find the smallest changes of objects that change the decision about PHOTOs.

    OUT gets a folder for each photo (pictures/), snapshot_<i>.png (query, reconstruction, counterfactuals) and
    explanations.parquet.
    """
    from blobex.core.ranks import joined
    from blobex.explain.explainer import Explainer
    from blobex.explain.request import Output, Request

    if format_ not in ("blobex", "published"):
        raise BlobexError(f"unknown format {format_!r}: choose blobex or published")
    request = Request(
        attributes=attribute,
        region=_box(region),
        replaced=replaced,
        variant=variant,
        keys=keys,
        blobs=blobs,
        only=only,
        background=background,
        few=few,
        count=count,
        compose=compose,
        gate=gate,
        steps=steps,
        lambda_prox=lambda_prox,
        learning_rate=learning_rate,
    )
    output = Output(out, gif=gif, published=format_ == "published", replace=replace)
    with joined() as ranks:
        explainer = Explainer.load(setup, models, params, device, decision)
        records = explainer.explain(photos, request, output, ranks)
        if ranks.first:
            _tell(records, out)


def _tell(records: Sequence[Explanation], out: Path) -> None:
    """Print what was found."""
    for record in records:
        scores = f"{record.attribute} {record.score_before:.2f} -> {record.score_after:.2f}"
        gate_ = f" (reconstruction {record.gate})" if record.gate else ""
        print(f"{record.image}  {record.from_class} -> {record.to_class}  {scores}  {record.verdict}{gate_}")
        print(f"  {record.words}")
        if record.sentence:
            print(f"  {record.sentence}")
    print(f"{sum(record.verdict == 'flipped' for record in records)} of {len(records)} flipped")
    for path in sorted(out.glob("snapshot_*.png")):
        print(path)


def _box(region: str | None) -> tuple[float, float, float, float] | None:
    if region is None:
        return None
    try:
        left, top, right, bottom = (float(number) for number in region.split(","))
    except ValueError as error:
        raise BlobexError(f"--region {region}: give left,top,right,bottom, such as 0.2,0.5,0.8,1") from error
    return left, top, right, bottom
