"""Commands `blobex explain`, `blobex merge`, `blobex blobs`, `blobex app` and `blobex truth`."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, BadParameter, Exit, Option

from blobex.cli.options import (
    MODELS,
    REGION_FORMS,
    Device,
    GuessedSetup,
    Models,
    OwnParamsFile,
    ParamsFile,
    Photos,
    Setup,
)
from blobex.core.errors import BlobexError

if TYPE_CHECKING:
    from blobex.config.params import Params
    from blobex.explain.request import Output, Request
    from blobex.explain.shards import Shard

WHAT, MAY, HOW, WHERE = "What to explain", "What may change", "How to search", "What to write"
INTERRUPTED = 130  # exit code after Ctrl-C, as shells have it


def explain(
    photos: Photos,
    *,
    attribute: Annotated[
        list[str] | None,
        Option(
            "--attribute",
            "--to",
            help="Outputs to flip, classes to reach, or numbers: stop,left. Default: all, or the second likely class.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    region: Annotated[
        str | None,
        Option(
            help="Segmentation: left,top,right,bottom in [0, 1] to change. Default: the whole image.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    replaced: Annotated[
        str | None,
        Option(
            "--from",
            help="Segmentation: class to replace there. Default: its most common class.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    at_least: Annotated[
        float | None, Option(help="Regression: least number that the output should reach.", rich_help_panel=WHAT)
    ] = None,
    at_most: Annotated[
        float | None, Option(help="Regression: greatest number that it should reach.", rich_help_panel=WHAT)
    ] = None,
    between: Annotated[
        str | None,
        Option(metavar="LOW,HIGH", help="Regression: range that it should reach.", rich_help_panel=WHAT),
    ] = None,
    only: Annotated[str | None, Option(help=f"Region that may change: {REGION_FORMS}.", rich_help_panel=MAY)] = None,
    blobs: Annotated[
        list[str] | None,
        Option(help="Numbers of blobs that may change: 3,7; see `blobex blobs`.", rich_help_panel=MAY),
    ] = None,
    keys: Annotated[
        list[str] | None,
        Option(help="Properties that may change: position,size,shape,appearance,style.", rich_help_panel=MAY),
    ] = None,
    background: Annotated[
        bool | None,
        Option(help="Whether the background may change. Default: not with --blobs or --only.", rich_help_panel=MAY),
    ] = None,
    few: Annotated[
        bool | None,
        Option("--few/--all", help="Change as few blobs as possible, or all that help.", rich_help_panel=MAY),
    ] = None,
    variant: Annotated[
        str, Option(help="Preset of the parameters: basic, targeted or diverse.", rich_help_panel=HOW)
    ] = "basic",
    count: Annotated[
        int | None,
        Option("--diverse", metavar="K", help="Find K that change different blobs.", rich_help_panel=HOW),
    ] = None,
    steps: Annotated[int | None, Option(help="Most steps of the search.", rich_help_panel=HOW)] = None,
    lambda_prox: Annotated[float | None, Option(help="Weight of the proximity term.", rich_help_panel=HOW)] = None,
    learning_rate: Annotated[
        float | None,
        Option("--learning-rate", "--lr", help="Learning rate of all keys but sizes.", rich_help_panel=HOW),
    ] = None,
    gate: Annotated[
        str | None,
        Option(help="If a reconstruction is decided otherwise: report, refine, skip.", rich_help_panel=HOW),
    ] = None,
    out: Annotated[
        Path,
        Option("--out", "-o", help="Folder for the results; a stopped run continues there.", rich_help_panel=WHERE),
    ] = Path("explained"),
    compose: Annotated[
        str | None,
        Option(help="photo: paste the change into it; full: render the layout.", rich_help_panel=WHERE),
    ] = None,
    gif: Annotated[
        bool, Option("--gif", help="Also write an animation of each change.", rich_help_panel=WHERE)
    ] = False,
    format_: Annotated[
        str,
        Option("--format", help="blobex, or published: also metadata_<i>.pt.", rich_help_panel=WHERE),
    ] = "blobex",
    shard: Annotated[
        str | None,
        Option(
            metavar="K/N",
            help="Explain the K-th of N parts into OUT/K-of-N; see `blobex merge`.",
            rich_help_panel=WHERE,
        ),
    ] = None,
    replace: Annotated[
        bool, Option("--replace", help="Remove all results from OUT first.", rich_help_panel=WHERE)
    ] = False,
    verbose: Annotated[
        bool,
        Option("--verbose", "-v", help="Also print what changed in numbers.", rich_help_panel=WHERE),
    ] = False,
    json: Annotated[bool, Option("--json", help="Print JSON instead of the table.", rich_help_panel=WHERE)] = False,
    decision: Annotated[
        str | None,
        Option(
            help="Model to explain: plain, biased, FILE.pt2, card.yaml, FILE.py:name, ...",
            rich_help_panel=MODELS,
        ),
    ] = None,
    setup: GuessedSetup = None,
    device: Device = None,
    models: Models = Path("models"),
    params: OwnParamsFile = None,
) -> None:
    """Find the smallest changes of objects that flip the decision about PHOTOs.

    OUT gets a folder for each photo (pictures/), snapshot_<i>.png (query, reconstruction, counterfactuals) and
    explanations.parquet.
    """
    from blobex.cli import preflight
    from blobex.explain.request import Output, Request
    from blobex.explain.shards import Shard

    part = None if shard is None else Shard.parse(shard)
    out = out if part is None else out / part.folder
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
        keys=preflight.split_names(keys, ()),
        blobs=_numbers(blobs),
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
    values = preflight.load(params, models)
    chosen = preflight.choose_setup(setup, photos, models, values)
    preflight.check(photos, request, chosen, values, decision, models)
    output = Output(out, gif=gif, published=format_ == "published", replace=replace)
    run = _Run(photos, request, output, part, verbose, json)
    run(chosen, models, values, device, decision)


@dataclass(frozen=True)
class _Run:
    """A checked command."""

    photos: Sequence[Path]
    request: Request
    output: Output
    shard: Shard | None
    verbose: bool
    json: bool

    def __call__(self, setup: str, models: Path, params: Params, device: str | None, decision: str | None) -> None:
        """Explain, and print the results; Ctrl-C says what is kept."""
        from blobex.cli import preflight, results_table
        from blobex.cli.progress_bar import shown_progress
        from blobex.core.device import joined
        from blobex.core.reference_networks import trained
        from blobex.explain import explainer as loading
        from blobex.explain.blob_listing import blob_names
        from blobex.explain.many import explain_into
        from blobex.explain.results_folder import kept

        out = Path(self.output.folder)
        with joined() as ranks:
            explainer = loading.Explainer.load(setup, models, params, device, decision)
            names = preflight.split_names(self.request.attributes, explainer.decision.outputs)
            request = dataclasses.replace(self.request, attributes=names)
            for note in explainer.decision.notes if ranks.first else ():
                print(f"note: {note}", file=sys.stderr)
            try:
                with shown_progress(f"explaining into {out}, setup {setup}", ranks.first):
                    records = explain_into(explainer, self.photos, request, self.output, ranks, self.shard)
            except KeyboardInterrupt:
                print(f"blobex: stopped; {kept(out)}", file=sys.stderr)
                raise Exit(INTERRUPTED) from None
            if not ranks.first:
                return
            if self.json:
                results_table.print_json(records, out)
            else:
                number = "{:.3g}" if explainer.decision.kind == "regression" else "{:.2f}"
                blobs = blob_names(trained(models), setup, explainer.blobs) if self.verbose else ()
                results_table.print_results(records, out, number, self.verbose, blobs)


def merge(
    results: Annotated[list[Path], Argument(metavar="OUT...", help="Results of `blobex explain`, or their shards.")],
    out: Annotated[Path, Option("--out", "-o", metavar="FILE", help="Parquet file to write.")],
) -> None:
    """Merge the tables of OUTs, in this order, into one Parquet file.

    An OUT of shards stands for all of them, which must be there. The column `folder` says where a row's images are.
    """
    from blobex.explain.merge import merge_tables

    print(f"{out}: {merge_tables(results, out)} rows")


def list_blobs(
    photos: Photos,
    out: Annotated[Path, Option("--out", "-o", help="Folder for the maps.")],
    setup: GuessedSetup = None,
    region: Annotated[str | None, Option(help=f"Region whose blobs are marked: {REGION_FORMS}.")] = None,
    device: Device = None,
    models: Models = Path("models"),
    params: OwnParamsFile = None,
) -> None:
    """Number the blobs of PHOTOs: write a map and a list of each, and print a table."""
    from blobex.cli import preflight

    values = preflight.load(params, models)
    chosen = preflight.choose_setup(setup, photos, models, values)
    preflight.check_photos(photos)

    from blobex.core.reference_networks import trained
    from blobex.explain import blob_listing
    from blobex.explain.explainer import Explainer

    explainer = Explainer.load(chosen, models, values, device)
    names = blob_listing.blob_names(trained(models), chosen, explainer.blobs)
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


def _numbers(texts: Sequence[str] | None) -> list[int] | None:
    """Return the numbers of texts such as 3 or 3,7."""
    if texts is None:
        return None
    try:
        return [int(number) for text in texts for number in text.split(",")]
    except ValueError as error:
        raise BadParameter(f"--blobs {','.join(texts)}: give numbers of blobs, such as 3,7") from error
