"""HTTP server of the page. It is stateless: the page holds the scene and sends it with each request."""

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

from blobex.app import responses
from blobex.app.guard import Guard
from blobex.app.jobs import UNEXPECTED, Event, Progress, events
from blobex.app.studio import Scene, Studio
from blobex.app.wire import WireFeedback, WireQuestion, WireSample, WireScene, read_json, short_name, to_image
from blobex.config.read import load_params, parse
from blobex.core.errors import BlobexError, brief
from blobex.explain.feedback import Feedback, add_feedback, image_digest
from blobex.networks.weights import CONFIG

MAX_UPLOAD, MAX_JSON = 64 * 2**20, 32 * 2**20  # bytes
MAX_MESSAGE = 300  # letters
FEEDBACK = Path("feedback.json")
LOOPBACK = ("127.0.0.1", "::1", "localhost")
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def application(studio: Studio, names: tuple[str, ...] = (), feedback: Path = FEEDBACK) -> Starlette:
    """Build the ASGI application; `names` are host names that it may be reached by, besides localhost.

    Answers about explanations are kept in the file `feedback`.
    """
    api = _Api(studio, feedback)
    names_of_files = sorted(file.name for file in (files("blobex.app") / "page").iterdir() if file.is_file())
    routes = [
        Route("/", _file("page.html")),
        *(Route(f"/{name}", _file(name)) for name in names_of_files),
        Route("/api/model", api.model),
        Route("/api/sample", api.sample, methods=["POST"]),
        Route("/api/photo", api.photo, methods=["POST"]),
        Route("/api/draw", api.draw, methods=["POST"]),
        Route("/api/explain", api.explain, methods=["POST"]),
        Route("/api/feedback", api.feedback, methods=["POST"]),
    ]
    handlers: Any = {BlobexError: _invalid, HTTPException: _refused, Exception: _unexpected}
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
    """Serve the page of a setup, by default the first that is trained, until Ctrl-C. `ready` gets the page's address.

    Answers about explanations are kept in feedback.json in the current folder.

    Raises:
        BlobexError: As `Explainer.load`, or the port is taken.
    """
    values = load_params(params)
    studio = Studio.open(setup or trained(models), models, values, device, decision)
    with listening(host, port) as bound:
        url_host = f"[{host}]" if ":" in host else host
        ready(f"http://{url_host}:{bound.getsockname()[1]}")
        config = uvicorn.Config(application(studio, (host.lower(),)), log_level="warning", timeout_graceful_shutdown=1)
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[bound])


def trained(models: Path) -> str:
    """Return the first setup with a trained generator; BlobexError without one."""
    setups = sorted(path.parent.name for path in (models / "blobgan").glob(f"*/{CONFIG}"))
    if not setups:
        raise BlobexError(f"there are no trained networks in {models}: run `dvc pull --allow-missing` or `make short`")
    return setups[0]


def listening(host: str, port: int) -> socket.socket:
    """Bind a socket to host and port; 0 takes any free port."""
    with contextlib.ExitStack() as unless_bound:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            bound = unless_bound.enter_context(socket.socket(family, kind, protocol))
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            bound.listen()  # before the address is announced
        except OSError as error:
            raise BlobexError(f"cannot listen on {host}, port {port} ({error.strerror}): give another port") from error
        unless_bound.pop_all()
    return bound


class _Api:
    """Endpoints. Long jobs run in a thread, one at a time; short ones too, beside them."""

    def __init__(self, studio: Studio, answers: Path) -> None:
        self.studio, self.answers = studio, answers
        self.long, self.short = threading.Lock(), threading.Lock()

    async def model(self, request: Request) -> Response:
        return await self._answer(lambda: responses.model(self.studio, request.query_params.get("decision")))

    async def sample(self, request: Request) -> Response:
        wire = parse(WireSample, await _json(request), "sample")
        return await self._answer(lambda: self._drawn(self.studio.sample(wire.seed, wire.truncation), wire.decision))

    async def draw(self, request: Request) -> Response:
        wire = parse(WireScene, await _json(request), "scene")
        return await self._answer(
            lambda: responses.drawing(self.studio.draw(responses.to_scene(wire, self.studio), wire.decision))
        )

    async def photo(self, request: Request) -> Response:
        name, decision = (request.query_params.get(key) for key in ("name", "decision"))
        data = await _body(request, MAX_UPLOAD)
        image = await run_in_threadpool(self.studio.fitted, data, name or "photo")
        explainer = await run_in_threadpool(self.studio.explainer, decision)
        invert = explainer.params.invert

        def work(progress: Progress) -> Event:
            return self._drawn(self.studio.invert(image, short_name(name or "photo"), progress, decision), decision)

        steps = (invert.square if self.studio.setup == "square" else invert.rect).steps
        return await _stream(events(work, self.long, steps))

    async def explain(self, request: Request) -> Response:
        tree = await _json(request)
        if not isinstance(tree, dict) or set(tree) != {"scene", "question"}:
            raise BlobexError("a question needs scene and question: send both")
        wire, question = parse(WireScene, tree["scene"], "scene"), parse(WireQuestion, tree["question"], "question")
        scene = await run_in_threadpool(responses.to_scene, wire, self.studio)
        explainer = await run_in_threadpool(self.studio.explainer, wire.decision)
        wanted = responses.request(question, explainer.decision.kind)
        await run_in_threadpool(explainer.plan, wanted)  # refuses invalid requests at once

        def work(progress: Progress) -> Event:
            records, archive = self.studio.explain(scene, wanted, progress, wire.decision)
            return responses.explained(records, archive, self.studio.names, explainer.decision.kind)

        return await _stream(events(work, self.long))

    async def feedback(self, request: Request) -> Response:
        wire = parse(WireFeedback, await _json(request), "answer")

        def work() -> Event:
            image = to_image(wire.png, *self.studio.size)
            answer = Feedback(
                image_digest(image), short_name(wire.image), wire.output, wire.decided, wire.answer, wire.png
            )
            return {"file": str(self.answers), "answers": add_feedback(self.answers, answer)}

        return await self._answer(work)

    def _drawn(self, scene: Scene, decision: str | None) -> Event:
        drawing = responses.drawing(self.studio.draw(scene, decision))
        return {"scene": responses.wire_scene(scene), "drawing": drawing}

    async def _answer(self, function: Callable[[], Event]) -> Response:
        def work() -> Event:
            with self.short:
                return function()

        return JSONResponse(await run_in_threadpool(work))


async def _stream(progress: AsyncGenerator[Event]) -> Response:
    """Stream events as lines of JSON, with status 422 if the first is an error."""
    first = await anext(progress)

    async def lines() -> AsyncIterator[str]:
        async with contextlib.aclosing(progress):
            yield json.dumps(first) + "\n"
            async for event in progress:
                yield json.dumps(event) + "\n"

    return StreamingResponse(lines(), 422 if "error" in first else 200, media_type="application/x-ndjson")


async def _body(request: Request, largest: int) -> bytes:
    parts, length = [], 0
    async for part in request.stream():
        parts.append(part)
        length += len(part)
        if length > largest:
            raise HTTPException(413, f"the request is larger than {largest >> 20} MiB: make it smaller")
    return b"".join(parts)


async def _json(request: Request) -> Any:
    if request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
        raise HTTPException(415, "the request must have the type application/json")
    return read_json(await _body(request, MAX_JSON))


def _file(name: str) -> Callable[[Request], Response]:
    content = (files("blobex.app") / "page" / name).read_bytes()
    return lambda _: Response(content, media_type=TYPES[Path(name).suffix])


async def _invalid(_: Request, error: Exception) -> Response:
    text = str(error).removesuffix(" (profiles/synthetic.yaml shows its place)")  # a hint for parameter files
    return JSONResponse({"error": brief(text, MAX_MESSAGE)}, 422)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    messages = {404: "there is nothing at this address", 405: "this address does not support this method"}
    return JSONResponse({"error": messages.get(error.status_code, error.detail)}, error.status_code)


async def _unexpected(_: Request, __: Exception) -> Response:
    return JSONResponse({"error": UNEXPECTED}, 500)
