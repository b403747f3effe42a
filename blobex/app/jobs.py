"""Long jobs: run in a thread, one at a time, with progress events, until done or until the client is gone."""

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

from blobex.app.wire import from_image
from blobex.core.errors import BlobexError
from blobex.datasets.images import to_array

INTERVAL = 0.12  # seconds between two images
UNEXPECTED = "something went wrong in the server: see its terminal"

Event = dict[str, Any]


class StoppedError(Exception):
    """The client is gone."""


@dataclass
class Progress:
    """Callback of a job: counts steps, sends some of their images, and stops the job when the client is gone."""

    send: Callable[[Event], None]
    gone: threading.Event
    of: int | None = None  # total number of steps, if known
    step: int = 0
    last: float = field(default_factory=time.monotonic)

    def __call__(self, image: Callable[[], Tensor]) -> None:
        """Count a step; `image` makes its image (3,H,W) in [-1,1]."""
        if self.gone.is_set():
            raise StoppedError
        self.step += 1
        if time.monotonic() - self.last < INTERVAL:
            return
        encoded = from_image(to_array(image().nan_to_num(0.0, 0.0, 0.0)))
        self.send({"step": self.step, "of": self.of, "picture": encoded})
        self.last = time.monotonic()


async def events(
    work: Callable[[Progress], Event], turn: threading.Lock, of: int | None = None
) -> AsyncGenerator[Event]:
    """Yield the job's progress and at last {"result": ...} or {"error": a sentence}.

    The job starts when it gets the lock `turn`. If the generator is closed, it stops at its next step.
    """
    loop, queue, gone = asyncio.get_running_loop(), asyncio.Queue[Event | None](), threading.Event()

    def send(event: Event | None) -> None:
        with suppress(RuntimeError):  # the server has ended
            loop.call_soon_threadsafe(queue.put_nowait, event)

    def run() -> None:
        try:
            while not turn.acquire(timeout=INTERVAL):
                if gone.is_set():
                    return
            try:
                send({"result": work(Progress(send, gone, of))})
            finally:
                turn.release()
        except StoppedError:
            pass
        except BlobexError as error:
            send({"error": str(error)})
        except Exception:
            logging.getLogger("blobex.app").exception("a job failed")
            send({"error": UNEXPECTED})
        finally:
            send(None)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while (event := await queue.get()) is not None:
            yield event
    finally:
        gone.set()
