"""Commands that work in every folder of a project."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from typer import Context
from typer.core import TyperCommand

from blobex.core.project import enter_project

REFERENCES = ("decision", "only", "place")  # options of words that may hold files
RESULTS = ("out",)  # options whose default is in the current folder, too


class ProjectCommand(TyperCommand):
    """Command that runs in the folder of its project; paths on the command line are those of the current folder."""

    def format_options(self, ctx: Context, formatter: Any) -> None:  # type: ignore[override]
        """List arguments and options, those with a `rich_help_panel` below it as a heading."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if row := parameter.get_help_record(ctx):
                plain = "Arguments" if parameter.param_type_name == "argument" else "Options"
                groups.setdefault(getattr(parameter, "rich_help_panel", None) or plain, []).append(row)
        for heading, rows in groups.items():
            with formatter.section(heading):
                formatter.write_dl(rows)

    def invoke(self, ctx: Context) -> Any:  # type: ignore[override]  # Typer passes its own context
        """Run the command."""
        before = enter_project()
        if before != Path.cwd():
            for parameter in self.params:
                name = parameter.name or ""
                given = ctx.get_parameter_source(name)
                if name in RESULTS or (given is not None and given.name == "COMMANDLINE"):
                    ctx.params[name] = _seen_from_here(ctx.params[name], name in REFERENCES, before)
        return super().invoke(ctx)


def _seen_from_here(value: Any, reference: bool, before: Path) -> Any:
    """Return paths relative to the folder `before` as paths relative to the current one, other values unchanged."""
    if isinstance(value, list | tuple):
        return type(value)(_seen_from_here(item, reference, before) for item in value)
    if isinstance(value, Path):
        return Path(os.path.relpath(before / value)) if not value.is_absolute() else value
    if isinstance(value, str) and reference:
        return ":".join(_file(part, before) for part in value.split(":"))
    return value


def _file(part: str, before: Path) -> str:
    """Return a part of a reference: a file, or a folder with a slash in its name, as a path from the current folder."""
    path = before / part
    known = path.is_file() or ("/" in part and path.is_dir())
    return os.path.relpath(path) if known and not Path(part).is_absolute() else part
