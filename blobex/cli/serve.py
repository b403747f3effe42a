"""Commands that serve pages, until Ctrl-C: `app`, `ui`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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


def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="On 127.0.0.1.")] = 5000,
    params: Annotated[Path, typer.Option(help="Parameter file; says which store.")] = Path("params.yaml"),
) -> None:
    """Serve MLflow's pages about all runs, until you press Ctrl-C."""
    from blobex.config.read import load_params
    from blobex.tracking.pages import serve

    serve(load_params(params).run, port)
