"""Commands `blobex remote`, `blobex sync` and `blobex ui`: storage of weights, and tracked runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from blobex.cli.project import ProjectCommand
from blobex.core.errors import BlobexError, brief

remotes = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@remotes.callback()
def remote() -> None:
    """Choose the storage of weights (`dvc push`, `dvc pull`) and of the files of MLflow's runs."""


@remotes.command("s3", cls=ProjectCommand)
def remote_s3(
    name: Annotated[str, Argument(metavar="BUCKET", help="Name of an existing bucket.")],
    prefix: Annotated[str, Option(help="Folder in the bucket.")] = "blobex",
    endpoint: Annotated[str | None, Option(metavar="URL", help="Address of an S3 server other than Amazon's.")] = None,
    params: Annotated[Path, Option(help="Parameter file to write to.")] = Path("params.yaml"),
) -> None:
    """Store both in an S3 bucket from now on. Nothing is written unless your AWS credentials can list the bucket."""
    from blobex.tracking.remote import bucket, use_bucket

    target = bucket(name, prefix, endpoint)
    changes = use_bucket(target, params)
    print(f"DVC's default remote: {target.url('dvc')}; `dvc push` fills it, `dvc remote default store` goes back")
    for key, (before, after) in changes.items():
        print(f"{key}: {before or 'null'} -> {after or 'null'}")
    print("runs that MLflow knows already keep their files where they are")


def sync(
    params: Annotated[Path, Option(help="Parameter file; run.tracking_uri names the store.")] = Path("params.yaml"),
) -> None:
    """Copy to MLflow's store the runs that were logged elsewhere while a server was silent or a database held."""
    from blobex.config.read import load_params
    from blobex.tracking.store import connect
    from blobex.tracking.sync import copy_runs

    settings = load_params(params).run
    count = copy_runs(connect(settings.tracking_uri, settings.s3_endpoint), settings)
    print(f"{count} runs copied")


def ui(
    port: Annotated[int, Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 5000,
    params: Annotated[Path, Option(help="Parameter file; run.tracking_uri names the store.")] = Path("params.yaml"),
) -> None:
    """Serve MLflow's pages about all runs until you press Ctrl-C; runs of the results in dvc.lock are added first."""
    from blobex.config.read import load_params

    settings = load_params(params).run
    if settings.tracking_uri.startswith("sqlite:"):  # what follows takes seconds to import
        print(
            f"blobex: MLflow's pages of {settings.tracking_uri}; http://127.0.0.1:{port} opens in about a minute",
            flush=True,
        )
    from blobex.tracking.reference import add_reference_runs
    from blobex.tracking.store import check_local, serve_pages

    check_local(settings)
    try:
        if count := add_reference_runs(settings):
            print(f"blobex: {count} runs added of the results in dvc.lock", flush=True)
    except BlobexError as error:
        print(f"blobex: the runs of the results in dvc.lock are not added: {brief(error)}", flush=True)
    serve_pages(settings, port)
