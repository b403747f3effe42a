"""Progress of an explanation on stderr: a moving bar with phase, step and score, or one line if it is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from blobex.core.progress import Phase, listening


@contextmanager
def shown_progress(line: str, first: bool = True) -> Iterator[None]:
    """Show the phases within the block as one bar on a terminal; elsewhere print `line` once they begin.

    Of several processes only the `first` shows anything.
    """
    if not first:
        with listening(lambda _: None):
            yield
        return
    if not sys.stderr.isatty():
        begun = list[Phase]()

        def announce(phase: Phase) -> None:
            if not begun:
                print(line, file=sys.stderr, flush=True)
                begun.append(phase)

        with listening(announce):
            yield
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(line, total=1.0, state="")

        def show(phase: Phase) -> None:
            bar.update(task, description=phase.title, completed=phase.share, state=state_words(phase))

        with listening(show):
            yield


def state_words(phase: Phase) -> str:
    """Describe the state of a phase.

    >>> state_words(Phase("inversion", total=4, steps=90, step=30, score=0.1234))
    '0 of 4, step 30 of 90, mean score 0.123'
    """
    parts = [f"{phase.done} of {phase.total}"]
    if phase.steps and not phase.finished:
        parts.append(f"step {phase.step} of {phase.steps}")
    if phase.score is not None:
        parts.append(f"mean score {phase.score:.3g}")
    return ", ".join(parts)
