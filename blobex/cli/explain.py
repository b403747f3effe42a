"""Commands `blobex explain`, `blobex blobs`, `blobex app` and `blobex truth`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from blobex.cli.options import REGION_FORMS, Device, Models, ParamsFile, Photos, Setup
from blobex.core.errors import BlobexError

if TYPE_CHECKING:
    from blobex.explain.explanation import Explanation

DOUBTS = 5  # images that are named as not to be trusted


def explain(
    photos: Photos,
    out: Annotated[Path, Option(help="Folder for the results; an interrupted run continues there.")],
    setup: Setup = "rect",
    attribute: Annotated[
        list[str] | None, Option("--attribute", "--to", help="Output to flip, class to reach, or number: stop, ...")
    ] = None,
    region: Annotated[
        str | None, Option(help="Segmentation: left,top,right,bottom in [0, 1] to change. Default: the whole image.")
    ] = None,
    replaced: Annotated[
        str | None, Option("--from", help="Segmentation: class to replace there. Default: its most common class.")
    ] = None,
    at_least: Annotated[float | None, Option(help="Regression: least number that the output should reach.")] = None,
    at_most: Annotated[float | None, Option(help="Regression: greatest number that it should reach.")] = None,
    between: Annotated[str | None, Option(metavar="LOW,HIGH", help="Regression: range that it should reach.")] = None,
    variant: Annotated[str, Option(help="Preset of the parameters: basic, targeted or diverse.")] = "basic",
    keys: Annotated[list[str] | None, Option(help="What may change: position, size, shape, appearance, style.")] = None,
    blobs: Annotated[list[int] | None, Option(help="Number of a blob that may change; see `blobex blobs`.")] = None,
    only: Annotated[str | None, Option(help=f"Region that may change: {REGION_FORMS}.")] = None,
    background: Annotated[
        bool | None, Option(help="Whether the background may change. Default: not with --blobs or --only.")
    ] = None,
    few: Annotated[bool | None, Option("--few/--all", help="Change as few blobs as possible, or all.")] = None,
    count: Annotated[int | None, Option("--diverse", metavar="K", help="Find K that change different blobs.")] = None,
    compose: Annotated[str | None, Option(help="photo: paste the change into it; full: render the layout.")] = None,
    gate: Annotated[str | None, Option(help="If a reconstruction is decided otherwise: report, refine, skip.")] = None,
    gif: Annotated[bool, Option("--gif", help="Also write an animation of each change.")] = False,
    format_: Annotated[str, Option("--format", help="blobex, or published: also metadata_<i>.pt.")] = "blobex",
    replace: Annotated[bool, Option("--replace", help="Remove all results from OUT first.")] = False,
    steps: Annotated[int | None, Option(help="Steps of the search.")] = None,
    lambda_prox: Annotated[float | None, Option(help="Weight of the proximity term.")] = None,
    learning_rate: Annotated[float | None, Option(help="Learning rate of all keys but sizes.")] = None,
    decision: Annotated[str | None, Option(help="Model: plain, biased, FILE.pt2, card.yaml, FILE.py:name, ...")] = None,
    device: Device = None,
    models: Models = Path("models"),
    params: ParamsFile = Path("params.yaml"),
) -> None:
    """Find the smallest changes of objects that flip the decision about PHOTOs.

    OUT gets a folder for each photo (pictures/), snapshot_<i>.png (query, reconstruction, counterfactuals) and
    explanations.parquet.
    """
    from blobex.core.device import joined
    from blobex.explain.explainer import Explainer
    from blobex.explain.request import Output, Request

    if format_ not in ("blobex", "published"):
        raise BlobexError(f"unknown format {format_!r}: choose blobex or published")
    request = Request(
        attributes=attribute,
        region=_box(region),
        replaced=replaced,
        at_least=at_least,
        at_most=at_most,
        between=_range(between),
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
        if ranks.first:
            for note in explainer.decision.notes:
                print(f"note: {note}", file=sys.stderr)
        records = explainer.explain(photos, request, output, ranks)
        if ranks.first:
            _print(records, out, "{:.3g}" if explainer.decision.kind == "regression" else "{:.2f}")


def list_blobs(
    photos: Photos,
    out: Annotated[Path, Option(help="Folder for the maps.")],
    setup: Setup = "rect",
    region: Annotated[str | None, Option(help=f"Region whose blobs are marked: {REGION_FORMS}.")] = None,
    device: Device = None,
    models: Models = Path("models"),
    params: ParamsFile = Path("params.yaml"),
) -> None:
    """Number the blobs of PHOTOs: write a map and a list of each, and print a table."""
    from blobex.explain import blob_listing
    from blobex.explain.explainer import Explainer

    explainer = Explainer.load(setup, models, params, device)
    names = blob_listing.blob_names(models, setup, explainer.blobs)
    for listing in blob_listing.list_blobs(explainer, photos, names, out, region):
        print(listing.table)


def open_app(
    setup: Annotated[
        str | None, Option(help="Shape of the images: square or rect. Default: the first with trained networks.")
    ] = None,
    host: Annotated[
        str, Option(help="Address to listen on; other machines can use the page with any but the default.")
    ] = "127.0.0.1",
    port: Annotated[int, Option(min=0, max=65535, help="Port; 0 takes any that is free.")] = 7860,
    decision: Annotated[
        str | None, Option(help="Decision model, as for explain; the page offers it beside the trained ones.")
    ] = None,
    device: Device = None,
    models: Models = Path("models"),
    params: ParamsFile = Path("params.yaml"),
) -> None:
    """Serve a page to explain photos by hand until you press Ctrl-C: move, resize, restyle and hide blobs."""
    from blobex.app.server import LOOPBACK, serve

    def announce(address: str) -> None:
        print(f"open {address} (Ctrl-C ends it)", flush=True)
        if host not in LOOPBACK:
            print("anyone who reaches this machine can use the page: there is no password", flush=True)

    serve(setup, host, port, models, params, decision, device, announce)


def truth(
    out: Annotated[Path, Option(help="Folder for the tables and examples.")],
    setup: Setup = "rect",
    models: Models = Path("models"),
    params: ParamsFile = Path("params.yaml"),
) -> None:
    """Test on synthetic scenes whether explanations reveal the planted shortcuts of decision models."""
    from blobex.config.read import load_params
    from blobex.core.device import resolve_device
    from blobex.metrics.witness_networks import deferred_decisions
    from blobex.truth.benchmark import Witness
    from blobex.truth.result_files import run_benchmark

    values, folder = load_params(params).for_setup(setup), models / "witness" / setup
    witness = None
    if folder.is_dir():
        witness = Witness(*deferred_decisions(folder, resolve_device(values.run.device)))
    run_benchmark(values, setup, models, out, witness=witness)


def _print(records: Sequence[Explanation], out: Path, number: str) -> None:
    """Print the explanations, with scores in the format `number`."""
    for record in records:
        if record.failed:
            print(f"{record.image}  failed: {record.sentence}")
            continue
        scores = f"{record.attribute} {number.format(record.score_before)} -> {number.format(record.score_after)}"
        gate = f" (reconstruction {record.gate})" if record.gate else ""
        print(f"{record.image}  {record.from_class} -> {record.to_class}  {scores}  {record.verdict}{gate}")
        print(f"  {record.words}")
        if record.sentence:
            print(f"  {record.sentence}")
    print(f"{sum(record.verdict == 'flipped' for record in records)} of {len(records)} flipped")
    doubts = {record.image: record.doubt for record in records if record.doubt}
    for image, doubt in list(doubts.items())[:DOUBTS]:
        print(f"{image} is not to be trusted: {doubt}")
    if len(doubts) > DOUBTS:
        print(f"nor are {len(doubts) - DOUBTS} more images")
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


def _range(between: str | None) -> tuple[float, float] | None:
    if between is None:
        return None
    try:
        low, high = (float(number) for number in between.split(","))
    except ValueError as error:
        raise BlobexError(f"--between {between}: give two numbers, such as 0.2,0.4") from error
    return low, high
