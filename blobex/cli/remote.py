"""Where weights and runs are kept: `blobex remote`, `blobex sync`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

remotes = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


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
    from blobex.tracking.remote import place, switch

    to = place(bucket, prefix, endpoint)
    changes = switch(to, params)
    print(f"DVC's default remote: {to.dvc}; `dvc push` fills it, `dvc remote default store` goes back")
    for key, (before, after) in changes.items():
        print(f"{key}: {before or 'null'} -> {after or 'null'}")
    print("runs that MLflow knows already keep their files where they are")


def sync(
    params: Annotated[Path, typer.Option(help="Parameter file; says which server.")] = Path("params.yaml"),
) -> None:
    """Send to the tracking server what was kept in mlruns/pending while it did not answer."""
    from blobex.config.read import load_params
    from blobex.tracking.runs import send_kept
    from blobex.tracking.store import connect

    settings = load_params(params).run
    sent = send_kept(connect(settings.tracking_uri, settings.s3_endpoint), settings)
    print(f"{sent} runs sent")
