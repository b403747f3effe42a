"""Commands `blobex import`, `release`, `pull`, `external`, `fid` and `s3`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option

from blobex.cli.options import Models, ParamsFile, Setup
from blobex.core.errors import BlobexError


def import_weights(
    file: Annotated[Path, Argument(metavar="FILE", help="A published PyTorch file.")],
    kind: Annotated[str, Option("--as", help="Network to take from it: generator, encoder or decision.")],
    setup: Setup,
    variant: Annotated[str, Option(help="Name of a decision model: plain or biased.")] = "plain",
    seed: Annotated[int | None, Option(min=0, max=2**31 - 1, help="Seed of the latents of the mean w.")] = None,
    mlp_idx: Annotated[
        int | None,
        Option(min=-64, max=-1, help="Layer of the layout network that an encoder was trained for. Default: -1."),
    ] = None,
    models: Models = Path("models"),
    params: ParamsFile = Path("params.yaml"),
) -> None:
    """Import published weights. No code in FILE is run, and nothing is written if a check fails."""
    from blobex.config.read import load_params
    from blobex.networks.import_weights import import_file

    folder, provenance = import_file(file, kind, setup, load_params(params), models, variant, seed, mlp_idx)
    print(folder)
    for name, value in provenance.items():
        print(f"  {name}: {', '.join(value) or 'nothing' if isinstance(value, list) else value}")


def release(
    setup: Annotated[str, Option(help="Shape of the images: square, rect or all.")] = "rect",
    to: Annotated[Path, Option(help="Folder for the releases, one subfolder each.")] = Path("models/release"),
    name: Annotated[str, Option(help="Name of the model in MLflow; the setup is appended.")] = "blobex",
    register: Annotated[
        bool, Option("--register/--no-register", help="Register a new version in MLflow as `reference`.")
    ] = True,
) -> None:
    """Promote the networks in models/ as the reference: weights, model card and checksums in one folder.

    Run it where the pipeline ran. Nothing is written if a network is missing or belongs to another run.
    """
    from blobex.release.release import release as write

    for written in write(["square", "rect"] if setup == "all" else [setup], to, name, register):
        print(f"{written.folder}: {written.files} files, {written.bytes / 1e6:.1f} MB")
        if written.missing:
            print(f"  without {', '.join(written.missing)}")
        models = ", ".join(written.models)
        print(f"  the reference in MLflow: {models}" if models else "  not registered in MLflow")


def pull(
    setup: Annotated[
        Literal["square", "rect"] | None, Argument(metavar="[SETUP]", help="square or rect. Default: all there are.")
    ] = None,
    place: Annotated[
        str | None, Option("--from", metavar="PLACE", help="A clone, a release, or s3://bucket/folder with one.")
    ] = None,
    endpoint: Annotated[str | None, Option(metavar="URL", help="Address of an S3 server other than Amazon's.")] = None,
) -> None:
    """Get reference networks for explanations in any folder that belongs to no project.

    They are kept in $BLOBEX_HOME, or in ~/.local/share/blobex.
    """
    from blobex.core.reference_networks import ADVICE, reference_folder

    if place is None:
        folder = reference_folder()
        raise BlobexError(f"{f'the networks in {folder} are used' if folder else 'say where from'}: {ADVICE}")
    from blobex.release.pull import pull as get

    pulled = get(place, setup, endpoint)
    print(f"{pulled.folder}: networks of {', '.join(pulled.setups)}, {pulled.bytes / 1e6:.1f} MB in all")
    if pulled.kept:
        print(f"  {', '.join(pulled.kept)} kept")
    if pulled.removed:
        print(f"  {', '.join(pulled.removed)} removed: of other parameters")


def external(
    params: Annotated[Path, Option(help="Parameter file; data.external is the folder.")] = Path("params.yaml"),
) -> None:
    """List external weights: what needs each file, where it belongs, and whether it is there and intact."""
    from blobex.config.read import load_params
    from blobex.networks.external import table

    print(table(Path(load_params(params).data.external)))


def fid(
    checkpoint: Annotated[Path, Option(help="Folder of a BlobGAN, such as models/blobgan/square.")],
    stats: Annotated[Path, Option(help="Statistics of real images, by `dvc repro fid_stats` or clean-fid.")],
    images: Annotated[int, Option("--images", "-n", help="Number of images to generate.")] = 50_000,
    network: Annotated[
        str | None,
        Option(help="Feature network: parser, inception or inception_clean. Default: that of the statistics."),
    ] = None,
    kid: Annotated[
        Path | None, Option(metavar="FOLDER", help="Also compute the kernel distance to these real images.")
    ] = None,
    batch_size: Annotated[int | None, Option(help="Batch size; changes only the speed.")] = None,
    seed: Annotated[int, Option(min=0, max=2**31 - 1, help="Seed of the generated images.")] = 0,
    truncation: Annotated[float, Option(help="Truncation, from 0 (none) to 1 (the mean only).")] = 0.0,
    device: Annotated[str, Option(help="auto, cpu or cuda.")] = "auto",
    external: Annotated[Path, Option(help="Folder of external weights.")] = Path("models/external"),
    out: Annotated[Path | None, Option(metavar="FILE.json", help="Also write the measures to this file.")] = None,
) -> None:
    """Compute the Frechet distance between generated and real images; with Inception, the FID."""
    from blobex.core.device import resolve_device
    from blobex.metrics.generator import Sampling, check_place, load_generator, measure_generator, write_measures

    sampling = Sampling(images, seed, truncation, batch_size)
    if out:
        check_place(out)
    model, reference = load_generator(checkpoint, stats, resolve_device(device), network, kid, external)
    measures = measure_generator(model, reference, sampling)
    for name, value in measures.items():
        text = "unknown" if value is None else value
        print(f"{name}: {value:.5g}" if isinstance(value, float) else f"{name}: {text}")
    if out:
        write_measures(out, measures)


def s3(
    results: Annotated[Path, Argument(metavar="RESULTS", help="A folder that `blobex explain --out` wrote.")],
    device: Annotated[str, Option(help="auto, cpu or cuda.")] = "auto",
    external: Annotated[Path, Option(help="Folder of external weights.")] = Path("models/external"),
) -> None:
    """Compute S3: how similar SimSiam finds images and their counterfactuals, from -1 to 1, with a 95% interval."""
    from blobex.core.device import resolve_device
    from blobex.explain.measures import similarities
    from blobex.explain.results_folder import read_results
    from blobex.metrics.interval import ValuesOfImages, flat_intervals
    from blobex.networks.external import require
    from blobex.networks.simsiam import load_simsiam

    place = resolve_device(device)
    network, records = load_simsiam(require("simsiam", external)).to(place), read_results(results)
    sound = [record for record in records if not record.failed]
    values = similarities(sound, lambda images: network(images.to(place)))
    measure = ValuesOfImages(False, values, [record.image for record in sound])
    for name, value in flat_intervals({"s3": measure}, seed=0).items():
        print(f"{name}: {value:.5g}")
