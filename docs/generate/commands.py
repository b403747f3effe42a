"""Page of commands, generated from `blobex --help` and the Makefile."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from blobex.cli.main import app

INTRODUCTION = """# Commands

`blobex --install-completion` installs completion of commands and options for bash, zsh, fish or PowerShell.
"""
WIDTH = 100  # characters


def page(root: Path) -> str:
    """Return the page as Markdown; `root` is the repository."""
    parts = [INTRODUCTION]
    for name, text in helps():
        parts += [f"## {name}\n", f"```text\n{text}\n```\n"]
    rows = [f"| `make {target}` | {meaning} |" for target, meaning in targets(root)]
    rows = [row.replace("<", "&lt;") for row in rows]
    return "\n".join([*parts, "## make\n", "| target | purpose |", "|---|---|", *rows, ""])


def helps() -> Iterator[tuple[str, str]]:
    """Yield the name and help of every command, groups before their members."""

    def walk(command: Any, name: str) -> Iterator[tuple[str, str]]:
        context = command.make_context(
            name, [], resilient_parsing=True, terminal_width=WIDTH, max_content_width=WIDTH, color=False
        )
        yield name, command.get_help(context).rstrip()
        for inner in command.commands.values() if hasattr(command, "commands") else ():
            yield from walk(inner, f"{name} {inner.name}")

    return walk(get_command(app), "blobex")


def targets(root: Path) -> list[tuple[str, str]]:
    """Return the targets of the Makefile and their descriptions."""
    text = (root / "Makefile").read_text(encoding="utf-8")
    matches = re.findall(r"^([a-z0-9-]+):.*?## (.*)$", text, re.MULTILINE)
    return [(target, meaning.replace("|", ", ")) for target, meaning in matches]
