"""The command line: `blobex explain PHOTO...`. What is heavy to import is imported by the command that needs it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from blobex import __version__
from blobex.errors import BlobexError, brief, sentence

if TYPE_CHECKING:
    from blobex.counterfactual.result import Explanation
    from blobex.ranks import Ranks

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)


def main() -> None:
    """The entry point: what the user can put right is told in one line on stderr, with exit code 1.

    With exit code 2, the command was not understood.
    """
    try:
        code = app(prog_name="blobex", standalone_mode=False)
    except (BlobexError, OSError) as error:
        print(f"blobex: {sentence(error)}", file=sys.stderr)
        code = 1
    except typer.TyperException as error:
        print(_misunderstood(error), file=sys.stderr)
        code = error.exit_code
    sys.exit(code)


def _misunderstood(error: typer.TyperException) -> str:
    """What is wrong with the command line, in one line; the help, where there is none."""
    words = error.format_message()
    if words.startswith("Usage:"):
        return words
    context = getattr(error, "ctx", None)
    return f"blobex: {brief(words).removesuffix('.')}: see `{context.command_path if context else 'blobex'} --help`"


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"blobex {__version__}")
        raise typer.Exit()


@app.callback()
def blobex(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Object-aware counterfactual explanations: what would have to be different for the model to decide otherwise?"""


@app.command()
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
    from blobex.explainer import Explainer
    from blobex.ranks import joined

    if format_ not in ("blobex", "published"):
        raise BlobexError(f"unknown format {format_!r}: choose blobex or published")
    box = _box(region)
    with joined() as ranks:
        files = _listed(photos, ranks)
        explainer = Explainer.load(setup, models, params, device, decision)
        records = explainer.explain(
            files,
            attribute,
            keys,
            blobs,
            background,
            out,
            box,
            replaced,
            steps,
            lambda_prox,
            learning_rate,
            variant=variant,
            only=only,
            few=few,
            count=count,
            compose=compose,
            gate=gate,
            gif=gif,
            published=format_ == "published",
            replace=replace,
            ranks=ranks,
        )
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


def _listed(photos: Sequence[Path], ranks: Ranks) -> list[Path]:
    """The pictures that were named, and those of folders that were."""
    return [file for photo in photos for file in (_readable(photo, ranks) if photo.is_dir() else [photo])]


def _readable(folder: Path, ranks: Ranks) -> list[Path]:
    """The pictures of a folder; what cannot be read is told and left out. Of several ranks each reads its share."""
    from blobex.datasets.images import list_images, load_image

    found, readable = list_images(folder), []
    for number in filter(ranks.has, range(len(found))):
        try:
            load_image(found[number])
            readable.append(number)
        except BlobexError as error:
            print(f"blobex: skipped: {error}", file=sys.stderr)
    files = [found[number] for number in sorted(ranks.gathered(readable))]
    if not files:
        raise BlobexError(f"none of the {len(found)} pictures in {folder} can be read: give others")
    return files


@app.command("import")
def import_weights(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A published PyTorch file.")],
    kind: Annotated[str, typer.Option("--as", help="What to take from it: generator, encoder or decision.")],
    setup: Annotated[str, typer.Option(help="Shape of the pictures: square or rect.")],
    variant: Annotated[str, typer.Option(help="Name of a decision model: plain or biased.")] = "plain",
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**31 - 1, help="Of the latents whose mean w is taken.")
    ] = None,
    models: Annotated[Path, typer.Option(help="Folder of the networks, which is written to.")] = Path("models"),
    params: Annotated[Path, typer.Option(help="Parameter file; it says how large a setup is.")] = Path("params.yaml"),
) -> None:
    """Take over published weights; no code from FILE is run, and nothing is written unless all is well."""
    from blobex.config.read import load_params
    from blobex.importing import import_file

    folder, provenance = import_file(file, kind, setup, load_params(params), models, variant, seed)
    print(folder)
    for name, value in provenance.items():
        print(f"  {name}: {', '.join(value) or 'nothing' if isinstance(value, list) else value}")


@app.command()
def release(
    setup: Annotated[str, typer.Option(help="Shape of the pictures: square, rect or all.")] = "rect",
    to: Annotated[Path, typer.Option(help="Folder for the releases, one folder each.")] = Path("models/release"),
    name: Annotated[str, typer.Option(help="Of the model in MLflow, before the setup.")] = "blobex",
    register: Annotated[
        bool, typer.Option("--register/--no-register", help="Whether MLflow gets a new version, as `reference`.")
    ] = True,
) -> None:
    """Promote the networks in models/ as the reference: weights, model card and checksums in one folder.

    Run it where the pipeline ran. Nothing is written unless all is there and belongs together.
    """
    from blobex.release.release import release as write

    for found in write(["square", "rect"] if setup == "all" else [setup], to, name, register):
        print(f"{found.folder}: {found.files} files, {found.bytes / 1e6:.1f} MB")
        if found.missing:
            print(f"  without {', '.join(found.missing)}")
        models = ", ".join(found.models)
        print(f"  the reference in MLflow: {models}" if models else "  not registered in MLflow")


@app.command()
def external(
    params: Annotated[Path, typer.Option(help="Parameter file; its data.external is the folder.")] = Path(
        "params.yaml"
    ),
) -> None:
    """List the weights from elsewhere: what needs each, where it belongs, and whether it is there and whole."""
    from blobex.config.read import load_params
    from blobex.networks.external import table

    print(table(Path(load_params(params).data.external)))


@app.command()
def scenes(
    out: Annotated[Path, typer.Argument(help="Folder for the pictures.")],
    count: Annotated[int, typer.Option(help="How many.")] = 8,
    height: Annotated[int, typer.Option(min=16, max=1024, help="Pixels; they are twice as wide.")] = 64,
    seed: Annotated[int, typer.Option(help="Other seeds, other scenes.")] = 0,
) -> None:
    """Draw synthetic road scenes that no network was trained on, as photos to explain."""
    from blobex.scenes.write import write_pictures

    print("\n".join(map(str, write_pictures(out, count, height, seed))))


@app.command()
def data(
    params: Annotated[Path, typer.Option(help="Parameter file; its data.root is looked into.")] = Path("params.yaml"),
) -> None:
    """Describe the data set in <data.root>.json, which DVC watches; exit code 1 if parts of BDD100K are missing."""
    from blobex.config.read import load_params
    from blobex.datasets.bdd import PARTS, missing_parts
    from blobex.datasets.manifest import data_root, manifest_path, write_manifest

    values = load_params(params)
    root = data_root(values)
    missing = missing_parts(root) if values.data.source == "bdd100k" else []
    if missing:
        print("\n".join(missing))
        raise BlobexError(f"{root} lacks {len(missing)} of {len(PARTS)} parts: unpack what is listed")
    found = write_manifest(root)
    print(f"{root} holds all parts; {manifest_path(root)} describes its {found['files']:,} files")


@app.command()
def fid(
    checkpoint: Annotated[Path, typer.Option(help="Folder of a BlobGAN, such as models/blobgan/square.")],
    stats: Annotated[Path, typer.Option(help="Statistics of real pictures: what `dvc repro fid_stats` writes.")],
    images: Annotated[int, typer.Option("--images", "-n", help="How many pictures to generate.")] = 50_000,
    network: Annotated[
        str | None, typer.Option(help="parser, inception or inception_clean; that of the statistics if not given.")
    ] = None,
    kid: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Also the kernel distance to these real pictures.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pictures at once: matters to speed only.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of the generated pictures.")] = 0,
    truncation: Annotated[float, typer.Option(help="From 0, none, to 1, only the mean.")] = 0.0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    external: Annotated[Path, typer.Option(help="Folder of weights from elsewhere.")] = Path("models/external"),
    out: Annotated[Path | None, typer.Option(metavar="FILE.json", help="Also write what is printed here.")] = None,
) -> None:
    """Measure how near a generator's pictures are to real ones: the Frechet distance, with Inception the FID."""
    from blobex.device import resolve_device
    from blobex.metrics.generator import Sampling, check_place, load_measured, measure_generator, write_measures

    sampling = Sampling(images, seed, truncation, batch_size)
    if out:
        check_place(out)
    model, yardstick = load_measured(checkpoint, stats, resolve_device(device), network, kid, external)
    measures = measure_generator(model, yardstick, sampling)
    for name, value in measures.items():
        print(f"{name}: {value:.5g}" if isinstance(value, float) else f"{name}: {value}")
    if out:
        write_measures(out, measures)


@app.command()
def truth(
    out: Annotated[Path, typer.Option(help="Folder for the tables and examples.")],
    setup: Annotated[str, typer.Option(help="Shape of the pictures: square or rect.")] = "rect",
    models: Annotated[Path, typer.Option(help="Folder of the trained networks.")] = Path("models"),
    params: Annotated[Path, typer.Option(help="Parameter file; its section truth says how.")] = Path("params.yaml"),
) -> None:
    """Measure whether explanations are true: of synthetic scenes, about models with planted shortcuts."""
    from blobex.config.read import load_params
    from blobex.truth.benchmark import benchmark
    from blobex.truth.write import table, write

    findings = benchmark(load_params(params), setup, models)
    write(findings, out)
    print(table(findings))


@app.command("blobs")
def list_blobs(
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO...", help="Pictures of any size, or folders of them.")],
    out: Annotated[Path, typer.Option(help="Folder for the maps.")],
    setup: Annotated[str, typer.Option(help="Shape of the pictures: square or rect.")] = "rect",
    region: Annotated[
        str | None,
        typer.Option(help="Whose blobs stand out: 'car ahead', left,top,right,bottom, 'x,y x,y x,y', or a mask."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    models: Annotated[Path, typer.Option(help="Folder of the trained networks.")] = Path("models"),
    params: Annotated[Path, typer.Option(help="Parameter file.")] = Path("params.yaml"),
) -> None:
    """Show which blob of PHOTOs is which: a numbered map and a list for each, and a table."""
    from blobex import blob_listing
    from blobex.ranks import ALONE

    for listing in blob_listing.list_blobs(_listed(photos, ALONE), out, setup, models, params, device, region):
        print(listing.table)


@app.command("app")
def open_app(
    setup: Annotated[
        str | None, typer.Option(help="Shape of the pictures: square or rect; the first that is trained, if not given.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; with another than this, other machines can use the page, too.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 7860,
    decision: Annotated[
        str | None, typer.Option(help="Model to explain, as for explain; the page offers it beside the trained ones.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    models: Annotated[Path, typer.Option(help="Folder of the trained networks.")] = Path("models"),
    params: Annotated[Path, typer.Option(help="Parameter file; gives what no option says.")] = Path("params.yaml"),
) -> None:
    """Serve a page to explain pictures by hand, until you press Ctrl-C: move, resize, restyle and hide their blobs."""
    from blobex.app.server import LOOPBACK, serve

    def ready(address: str) -> None:
        print(f"open {address} (Ctrl-C ends it)", flush=True)
        if host not in LOOPBACK:
            print("anyone who reaches this machine can use the page: there is no password", flush=True)

    serve(setup, host, port, models, params, decision, device, ready)


sweeps = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(sweeps, name="sweep")


@sweeps.callback()
def sweep() -> None:
    """Tune values that depend on each other: the search's (cf), the inversion's (invert), the encoder's (encoder)."""


SweptSetup = Annotated[str, typer.Option(help="Shape of the pictures: square or rect.")]
Trials = Annotated[int | None, typer.Option(min=1, help="In all, with those of earlier calls.")]
Workers = Annotated[int, typer.Option(min=1, help="Processes that try at the same time; they share the cores.")]
StudyName = Annotated[
    str | None, typer.Option("--name", help="Of the study; one that was stopped goes on. The setup's, if not given.")
]
Storage = Annotated[
    str | None,
    typer.Option(
        envvar="BLOBEX_STORAGE",  # a password on the command line is there for all to read
        help="URL of a database, for workers on several machines; else a file beside the reports.",
    ),
]
SweptModels = Annotated[Path, typer.Option(help="Folder of the trained networks.")]
SweptParams = Annotated[Path, typer.Option(help="Parameter file; sweep_<kind> says where to look, and for what.")]


SWEEPS = {
    "cf": "Tune explain.<setup>: the smallest change that flips decisions often enough, and soon enough.",
    "invert": "Tune invert.<setup>: the nearest reconstruction that is decided as the photo is, and soon enough.",
    "encoder": "Tune encoder_pretrain.training, by short trainings.",
}


def _add_sweep(kind: str) -> None:
    @sweeps.command(kind, help=SWEEPS[kind])
    def command(
        setup: SweptSetup = "rect",
        trials: Trials = None,
        workers: Workers = 1,
        name: StudyName = None,
        storage: Storage = None,
        models: SweptModels = Path("models"),
        params: SweptParams = Path("params.yaml"),
    ) -> None:
        from blobex.tuning.compare import table
        from blobex.tuning.tasks import run_sweep

        best, comparison = run_sweep(kind, setup, name or setup, trials, workers, storage, models, params)
        print(table(comparison))
        print(best)


for _kind in SWEEPS:
    _add_sweep(_kind)


@sweeps.command("apply")
def sweep_apply(
    name: Annotated[str, typer.Argument(help="Of the study: the setup's, if it was given none.")],
    kind: Annotated[str, typer.Option(help="What was tuned: cf, invert or encoder.")] = "cf",
    params: Annotated[Path, typer.Option(help="Parameter file to write to.")] = Path("params.yaml"),
    dvc: Annotated[bool, typer.Option("--dvc", help="Write nothing: print the words for `dvc exp run`.")] = False,
) -> None:
    """Write a study's best values into the parameter file; comments stay."""
    from blobex.sweeps.best import BEST, apply, read_best
    from blobex.sweeps.storage import folder_of

    best = folder_of(kind, name) / BEST
    if dvc:
        print(" ".join(f"-S {key}={value}" for key, value in read_best(best).items()))
        return
    for key, (before, after) in apply(best, params).items():
        print(f"{key}: {before} -> {after}")


remotes = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(remotes, name="remote")


@remotes.callback()
def remote() -> None:
    """Choose where `dvc push` and `dvc pull` keep weights, and MLflow the files of its runs."""


@remotes.command("s3")
def remote_s3(
    bucket: Annotated[str, typer.Argument(help="Name of a bucket that exists.")],
    prefix: Annotated[str, typer.Option(help="Folder in the bucket.")] = "blobex",
    endpoint: Annotated[str | None, typer.Option(metavar="URL", help="Of a server that is not Amazon's.")] = None,
    params: Annotated[Path, typer.Option(help="Parameter file to write to.")] = Path("params.yaml"),
) -> None:
    """Keep both in an S3 bucket from now on; nothing is written unless it answers to your AWS credentials."""
    from blobex.remote import place, switch

    to = place(bucket, prefix, endpoint)
    changes = switch(to, params)
    print(f"DVC's default remote: {to.dvc}; `dvc push` fills it, `dvc remote default store` goes back")
    for key, (before, after) in changes.items():
        print(f"{key}: {before or 'null'} -> {after or 'null'}")
    print("runs that MLflow knows already keep their files where they are")


@app.command()
def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="On 127.0.0.1.")] = 5000,
    params: Annotated[Path, typer.Option(help="Parameter file; says which store.")] = Path("params.yaml"),
) -> None:
    """Serve MLflow's pages about all runs, until you press Ctrl-C."""
    from blobex.config.read import load_params
    from blobex.pages import serve

    serve(load_params(params).run, port)


@app.command()
def sync(
    params: Annotated[Path, typer.Option(help="Parameter file; says which server.")] = Path("params.yaml"),
) -> None:
    """Send to the tracking server what was kept in mlruns/pending while it did not answer."""
    from blobex.config.read import load_params
    from blobex.mlflow_store import connect
    from blobex.tracking import send_kept

    settings = load_params(params).run
    sent = send_kept(connect(settings.tracking_uri, settings.s3_endpoint), settings)
    print(f"{sent} runs sent")
