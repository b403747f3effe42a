"""The table of the speed benchmark, as text."""

from __future__ import annotations

COMPARED = (
    *("seconds_per_picture", "invert_seconds_per_picture", "explain_seconds_per_picture"),
    *("invert_renderings_per_picture", "explain_renderings_per_picture", "peak_gigabytes"),
    *("reconstruction_perceptual", "reconstruction_l2", "reconstruction_agrees"),
    *("flip_rate", "flipped_by_change", "perceptual", "l2", "proximity"),
)


def comparison(measures: dict[str, float], images: int) -> str:
    """Format the measures of both searches on `images` images side by side, then the other measures."""
    lines = [f"{f'{images} pictures':34}{'fast':>12}{'published':>12}{'published / fast':>18}"]
    for name in COMPARED:
        fast, published = measures[f"fast_{name}"], measures[f"published_{name}"]
        ratio = f"{published / fast:.2f}" if fast else "-"
        lines.append(f"{name:34}{fast:>12.4f}{published:>12.4f}{ratio:>18}")
    compared = {f"{search}_{name}" for search in ("fast", "published") for name in COMPARED}
    others = {name: value for name, value in measures.items() if name not in compared and "per_second" not in name}
    return "\n".join(lines) + "\n" + rows(others)


def rows(measures: dict[str, float]) -> str:
    """Format one line per measure."""
    return "".join(f"{name:46}{value:>12.4f}\n" for name, value in measures.items())
