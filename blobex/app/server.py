"""The page and what it asks for, over HTTP. No scene is kept here: the page holds it and sends it along."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from blobex.app import answers
from blobex.app.guard import Guard
from blobex.app.jobs import UNFORESEEN, Event, Progress, events
from blobex.app.studio import Studio
from blobex.app.wire import WireQuestion, WireSample, WireScene, read, read_json, short_name, shortened
from blobex.config.read import load_params
from blobex.core.errors import BlobexError
from blobex.networks.weights import CONFIG

LARGEST = 64 * 2**20  # bytes of an uploaded picture
LARGEST_JSON = 32 * 2**20
LOOPBACK = ("127.0.0.1", "::1", "localhost")
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def application(studio: Studio, names: tuple[str, ...] = ()) -> Starlette:
    """The ASGI application; `names` are host names, beside localhost, that it may be called by."""
    api = _Api(studio)
    routes = [
        Route("/", _file("page.html")),
        *(Route(f"/{name}", _file(name)) for name in _page_files()),
        Route("/api/model", api.model),
        Route("/api/sample", api.sample, methods=["POST"]),
        Route("/api/photo", api.photo, methods=["POST"]),
        Route("/api/draw", api.draw, methods=["POST"]),
        Route("/api/explain", api.explain, methods=["POST"]),
    ]
    handlers: Any = {BlobexError: _told, HTTPException: _refused, Exception: _unforeseen}
    return Starlette(routes=routes, middleware=[Middleware(Guard, names=names)], exception_handlers=handlers)


def serve(
    setup: str | None,
    host: str,
    port: int,
    models: Path,
    params: Path,
    decision: str | None = None,
    device: str | None = None,
    ready: Callable[[str], None] = print,
) -> None:
    """Serve the page until Ctrl-C; `ready` is told its address. BlobexError: as Explainer.load, or the port is taken.

    The setup is, if None, the first one that has a trained generator.
    """
    values = load_params(params)
    studio = Studio.open(setup or trained(models), models, values, device, decision)
    with listening(host, port) as bound:
        shown = f"[{host}]" if ":" in host else host
        ready(f"http://{shown}:{bound.getsockname()[1]}")
        config = uvicorn.Config(application(studio, (host.lower(),)), log_level="warning", timeout_graceful_shutdown=1)
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[bound])


def trained(models: Path) -> str:
    """The first setup of which there is a generator; BlobexError if there is none."""
    found = sorted(path.parent.name for path in (models / "blobgan").glob(f"*/{CONFIG}"))
    if not found:
        raise BlobexError(f"there are no trained networks in {models}: run `dvc pull --allow-missing` or `make short`")
    return found[0]


def listening(host: str, port: int) -> socket.socket:
    """A socket bound to host and port, 0 being any that is free."""
    with contextlib.ExitStack() as unless_bound:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            bound = unless_bound.enter_context(socket.socket(family, kind, protocol))
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            bound.listen()  # from now on, so that whoever is told the address is answered
        except OSError as error:
            raise BlobexError(f"cannot listen on {host}, port {port} ({error.strerror}): give another port") from error
        unless_bound.pop_all()
    return bound


class _Api:
    """The endpoints. What is long runs in a thread, one at a time; so does what is short, beside it."""

    def __init__(self, studio: Studio) -> None:
        self.studio, self.long, self.short = studio, threading.Lock(), threading.Lock()

    async def model(self, request: Request) -> Response:
        return await self._answer(answers.model, self.studio, request.query_params.get("decision"))

    async def sample(self, request: Request) -> Response:
        asked = read(WireSample, await _json(request), "sample")
        return await self._answer(self._sample, asked)

    def _sample(self, asked: WireSample) -> Event:
        scene = self.studio.sample(asked.seed, asked.truncation)
        drawn = answers.drawing(self.studio.draw(scene, asked.decision))
        return {"scene": answers.wire_scene(scene), "drawing": drawn}

    async def draw(self, request: Request) -> Response:
        wire = read(WireScene, await _json(request), "scene")
        return await self._answer(self._draw, wire)

    def _draw(self, wire: WireScene) -> Event:
        return answers.drawing(self.studio.draw(answers.to_scene(wire, self.studio), wire.decision))

    async def photo(self, request: Request) -> Response:
        name, decision = (request.query_params.get(key) for key in ("name", "decision"))
        data = await _body(request, LARGEST)
        picture = await run_in_threadpool(self.studio.fitted, data, name or "photo")
        explainer = await run_in_threadpool(self.studio.explainer, decision)
        invert = explainer.params.invert

        def work(progress: Progress) -> Event:
            scene = self.studio.invert(picture, short_name(name or "photo"), progress, decision)
            return {"scene": answers.wire_scene(scene), "drawing": answers.drawing(self.studio.draw(scene, decision))}

        steps = (invert.square if self.studio.setup == "square" else invert.rect).steps
        return await _stream(events(work, self.long, steps))

    async def explain(self, request: Request) -> Response:
        tree = await _json(request)
        if not isinstance(tree, dict) or set(tree) != {"scene", "question"}:
            raise BlobexError("a question needs scene and question: send both")
        wire, question = read(WireScene, tree["scene"], "scene"), read(WireQuestion, tree["question"], "question")
        scene = await run_in_threadpool(answers.to_scene, wire, self.studio)
        explainer = await run_in_threadpool(self.studio.explainer, wire.decision)
        asked = answers.request(question, explainer.decision.kind)
        await run_in_threadpool(explainer.plan, asked)

        def work(progress: Progress) -> Event:
            found, archive = self.studio.explain(scene, asked, progress, wire.decision)
            return answers.explained(found, archive, self.studio.names)

        return await _stream(events(work, self.long))

    async def _answer(self, function: Callable[..., Event], *arguments: Any) -> Response:
        def work() -> Event:
            with self.short:
                return function(*arguments)

        return JSONResponse(await run_in_threadpool(work))


async def _stream(found: AsyncGenerator[Event]) -> Response:
    """Events as lines of JSON, with status 422 if the first one is an error."""
    first = await anext(found)

    async def lines() -> AsyncIterator[str]:
        async with contextlib.aclosing(found):
            yield json.dumps(first) + "\n"
            async for event in found:
                yield json.dumps(event) + "\n"

    return StreamingResponse(lines(), 422 if "error" in first else 200, media_type="application/x-ndjson")


async def _body(request: Request, largest: int) -> bytes:
    parts, length = [], 0
    async for part in request.stream():
        parts.append(part)
        length += len(part)
        if length > largest:
            raise HTTPException(413, f"what was sent is larger than {largest >> 20} MiB: make it smaller")
    return b"".join(parts)


async def _json(request: Request) -> Any:
    if request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
        raise HTTPException(415, "the request must be of type application/json")
    return read_json(await _body(request, LARGEST_JSON))


def _page_files() -> list[str]:
    return sorted(each.name for each in (files("blobex.app") / "page").iterdir() if each.is_file())


def _file(name: str) -> Callable[[Request], Response]:
    content = (files("blobex.app") / "page" / name).read_bytes()
    return lambda _: Response(content, media_type=TYPES[Path(name).suffix])


async def _told(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": shortened(str(error))}, 422)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    told = {404: "there is nothing at this address", 405: "this address is for other requests"}
    return JSONResponse({"error": told.get(error.status_code, error.detail)}, error.status_code)


async def _unforeseen(_: Request, __: Exception) -> Response:
    return JSONResponse({"error": UNFORESEEN}, 500)
