"""What was measured, as text."""

from __future__ import annotations

COMPARED = (
    *("seconds_per_picture", "invert_seconds_per_picture", "explain_seconds_per_picture"),
    *("invert_renderings_per_picture", "explain_renderings_per_picture", "peak_gigabytes"),
    *("reconstruction_perceptual", "reconstruction_l2", "reconstruction_agrees"),
    *("flip_rate", "flipped_by_change", "perceptual", "l2", "proximity"),
)


def comparison(measures: dict[str, float], images: int) -> str:
    """The table of both ways, as text."""
    lines = [f"{f'{images} pictures':34}{'fast':>12}{'published':>12}{'published / fast':>18}"]
    for name in COMPARED:
        fast, published = measures[f"fast_{name}"], measures[f"published_{name}"]
        ratio = f"{published / fast:.2f}" if fast else "-"
        lines.append(f"{name:34}{fast:>12.4f}{published:>12.4f}{ratio:>18}")
    rest = [
        name for name in measures if name not in {f"{way}_{one}" for way in ("fast", "published") for one in COMPARED}
    ]
    return "\n".join(lines) + "\n" + rows({name: measures[name] for name in rest if "per_second" not in name})


def rows(measures: dict[str, float]) -> str:
    """One line per measure."""
    return "".join(f"{name:46}{value:>12.4f}\n" for name, value in measures.items())
