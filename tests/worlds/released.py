"""Reading of a release: its files, and the tables of its card."""

import re


def content(folder):
    """Every file's bytes, by its path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def table_rows(card, heading):
    """The cells of the tables under a heading."""
    section = re.split(r"^#+ ", card.split(f"# {heading}\n")[1], maxsplit=1, flags=re.MULTILINE)[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
