"""Commands that measure: `fid`, `truth`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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
    setup: Annotated[str, typer.Option(help="Shape of the pictures: square or rect.")] = "rect",
    models: Annotated[Path, typer.Option(help="Folder of the trained networks.")] = Path("models"),
    params: Annotated[Path, typer.Option(help="Parameter file; its section truth says how.")] = Path("params.yaml"),
) -> None:
    """Measure whether explanations are true: of synthetic scenes, about models with planted shortcuts."""
    from blobex.config.read import load_params
    from blobex.truth.benchmark import benchmark, forget
    from blobex.truth.write import table, write

    findings = benchmark(load_params(params).for_setup(setup), setup, models)
    write(findings, out)
    forget(models, setup)
    print(table(findings))
