"""Commands `blobex fid` and `blobex truth`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blobex.cli.options import Models, ParamsFile, Setup


def fid(
    checkpoint: Annotated[Path, typer.Option(help="Folder of a BlobGAN, such as models/blobgan/square.")],
    stats: Annotated[Path, typer.Option(help="Statistics of real images, as `dvc repro fid_stats` writes them.")],
    images: Annotated[int, typer.Option("--images", "-n", help="Number of images to generate.")] = 50_000,
    network: Annotated[
        str | None,
        typer.Option(help="Feature network: parser, inception or inception_clean. Default: that of the statistics."),
    ] = None,
    kid: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Also compute the kernel distance to these real images.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Batch size; changes only the speed.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Seed of the generated images.")] = 0,
    truncation: Annotated[float, typer.Option(help="Truncation, from 0 (none) to 1 (the mean only).")] = 0.0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    external: Annotated[Path, typer.Option(help="Folder of external weights.")] = Path("models/external"),
    out: Annotated[Path | None, typer.Option(metavar="FILE.json", help="Also write the measures to this file.")] = None,
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
        print(f"{name}: {value:.5g}" if isinstance(value, float) else f"{name}: {value}")
    if out:
        write_measures(out, measures)


def truth(
    out: Annotated[Path, typer.Option(help="Folder for the tables and examples.")],
    setup: Setup = "rect",
    models: Models = Path("models"),
    params: ParamsFile = Path("params.yaml"),
) -> None:
    """Test on synthetic scenes whether explanations reveal the planted shortcuts of decision models."""
    from blobex.config.read import load_params
    from blobex.truth.result_files import run_benchmark

    run_benchmark(load_params(params).for_setup(setup), setup, models, out)
