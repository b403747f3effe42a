"""Commands `blobex app` and `blobex ui`, which serve web pages until Ctrl-C."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blobex.cli.options import Device, Models, ParamsFile


def open_app(
    setup: Annotated[
        str | None, typer.Option(help="Shape of the images: square or rect. Default: the first with trained networks.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; other machines can use the page with any but the default.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes any that is free.")] = 7860,
    decision: Annotated[
        str | None, typer.Option(help="Decision model, as for explain; the page offers it beside the trained ones.")
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


def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 5000,
    params: Annotated[Path, typer.Option(help="Parameter file; run.tracking_uri names the store.")] = Path(
        "params.yaml"
    ),
) -> None:
    """Serve MLflow's pages about all runs until you press Ctrl-C."""
    from blobex.config.read import load_params
    from blobex.tracking.store import serve_pages

    serve_pages(load_params(params).run, port)
