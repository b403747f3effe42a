"""Entry point of the command line. Commands import what they need when they run, so that `--help` is fast."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from typer import Option

from blobex import __version__
from blobex.cli.audit import audit
from blobex.cli.data import data, scenes
from blobex.cli.explain import INTERRUPTED, explain, list_blobs, merge, open_app, truth
from blobex.cli.networks import external, fid, import_weights, pull, release, s3
from blobex.cli.project import ProjectCommand
from blobex.cli.repair import repair
from blobex.cli.sweep import sweeps
from blobex.cli.tracking import remotes, sync, ui
from blobex.core.errors import BlobexError, brief, print_any_text, sentence
from blobex.core.threads import set_thread_defaults

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)


def main() -> None:
    """Run the command line and exit: with code 1 and one line on stderr for bad input, with 2 for bad usage."""
    print_any_text()
    set_thread_defaults()
    try:
        code = app(prog_name="blobex", standalone_mode=False)
    except (BlobexError, OSError) as error:
        print(f"blobex: {sentence(error)}", file=sys.stderr)
        code = 1
    except (KeyboardInterrupt, typer.Abort):
        print("blobex: stopped", file=sys.stderr)
        code = INTERRUPTED
    except typer.TyperException as error:
        print(_usage_error(error), file=sys.stderr)
        code = error.exit_code
    sys.exit(code)


def _usage_error(error: typer.TyperException) -> str:
    """Describe a usage error in one line; without a command, return the help."""
    message = error.format_message()
    if message.startswith("Usage:"):
        return message
    context = getattr(error, "ctx", None)
    return f"blobex: {brief(message).removesuffix('.')}: see `{context.command_path if context else 'blobex'} --help`"


def _print_version(given: bool) -> None:
    if given:
        print(f"blobex {__version__}")
        raise typer.Exit()


@app.callback()
def blobex(
    version: Annotated[
        bool, Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Object-aware counterfactual explanations: what would have to be different for the model to decide otherwise?"""


app.command(cls=ProjectCommand)(explain)
app.command(cls=ProjectCommand)(merge)
app.command("import", cls=ProjectCommand)(import_weights)
app.command(cls=ProjectCommand)(release)
app.command(cls=ProjectCommand)(pull)
app.command(cls=ProjectCommand)(external)
app.command(cls=ProjectCommand)(scenes)
app.command(cls=ProjectCommand)(data)
app.command(cls=ProjectCommand)(fid)
app.command(cls=ProjectCommand)(s3)
app.command(cls=ProjectCommand)(truth)
app.command(cls=ProjectCommand)(audit)
app.command(cls=ProjectCommand)(repair)
app.command("blobs", cls=ProjectCommand)(list_blobs)
app.command("app", cls=ProjectCommand)(open_app)
app.command(cls=ProjectCommand)(ui)
app.command(cls=ProjectCommand)(sync)
app.add_typer(sweeps, name="sweep")
app.add_typer(remotes, name="remote")
