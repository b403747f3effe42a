"""Work that takes seconds: in a thread, one at a time; its progress is sent, and it ends when nobody waits."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from blobex.app.wire import from_picture
from blobex.core.errors import BlobexError
from blobex.datasets.images import to_array

EVERY = 0.12  # seconds between two pictures
UNFORESEEN = "something went wrong in the server: its terminal says what"

Event = dict[str, Any]


class StoppedError(Exception):
    """Nobody waits for the result any more."""


@dataclass
class Progress:
    """What a job is told through: it counts steps, shows some of them, and ends the job when nobody waits."""

    tell: Callable[[Event], None]
    gone: threading.Event
    of: int | None = None  # steps in all, if that is known
    step: int = 0
    last: float = field(default_factory=time.monotonic)

    def __call__(self, picture: Callable[[], Tensor]) -> None:
        """One step further; `picture` makes what it looks like, (3,H,W) in [-1,1]."""
        if self.gone.is_set():
            raise StoppedError
        self.step += 1
        if time.monotonic() - self.last < EVERY:
            return
        shown = from_picture(to_array(picture().nan_to_num(0.0, 0.0, 0.0)))
        self.tell({"step": self.step, "of": self.of, "picture": shown})
        self.last = time.monotonic()


async def events(
    work: Callable[[Progress], Event], turn: threading.Lock, of: int | None = None
) -> AsyncGenerator[Event]:
    """The job's progress and at last {"result": ...} or {"error": a sentence}.

    It begins when it is its `turn`. When nobody asks for more, it ends at its next step.
    """
    loop, told, gone = asyncio.get_running_loop(), asyncio.Queue[Event | None](), threading.Event()

    def tell(event: Event | None) -> None:
        with suppress(RuntimeError):  # the server has ended
            loop.call_soon_threadsafe(told.put_nowait, event)

    def run() -> None:
        try:
            while not turn.acquire(timeout=EVERY):
                if gone.is_set():
                    return
            try:
                tell({"result": work(Progress(tell, gone, of))})
            finally:
                turn.release()
        except StoppedError:
            pass
        except BlobexError as error:
            tell({"error": str(error)})
        except Exception:
            logging.getLogger("blobex.app").exception("a job failed")
            tell({"error": UNFORESEEN})
        finally:
            tell(None)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while (event := await told.get()) is not None:
            yield event
    finally:
        gone.set()
