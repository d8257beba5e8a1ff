"""The routes, and the way of one request: looked at, let in, read, embedded, answered."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from qwen_embed_plugins.server import answers
from qwen_embed_plugins.server.admission import Room
from qwen_embed_plugins.server.answers import as_json
from qwen_embed_plugins.server.asked import check_model, read
from qwen_embed_plugins.server.counts import GONE, Counts, Metrics
from qwen_embed_plugins.server.guard import Guard
from qwen_embed_plugins.server.joining import Joiner, Kind
from qwen_embed_plugins.server.lingering import Lingering
from qwen_embed_plugins.server.refusals import Refusal, refusal_of, texts_without_vector

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from qwen_embed_plugins.embedder import AsyncEmbedder
    from qwen_embed_plugins.types import EmbedResult

log = logging.getLogger("qwen_embed_plugins.server")

T = TypeVar("T")

Endpoint = Callable[[Request], Awaitable[Response]]

ROUTES = "POST /v1/embeddings, GET /v1/models, GET /metrics and GET /health"


class Application:
    """One embedder behind HTTP, in one event loop. `asgi` is what a server runs."""

    def __init__(
        self,
        embedder: AsyncEmbedder,
        counts: Counts,
        *,
        token: str | None,
        most_body_bytes: int,
        most_requests: int,
    ) -> None:
        self._embedder = embedder
        self._space = embedder.space
        self._counts = counts
        self._guard = Guard(token)
        self._room = Room(most_requests, most_body_bytes)
        self._joiner = Joiner(self._embed)
        self._metrics = Metrics(counts, lambda: self.under_way, lambda: self._joiner.joined)
        self._since = int(time.time())
        self._given_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.asgi: ASGIApp = Lingering(self._routed())

    @property
    def under_way(self) -> int:
        """Requests for embeddings that have not ended."""
        return self._room.requests

    def give_up(self) -> None:
        """Refuse whatever is still under way."""
        if not self._given_up.done():
            self._given_up.set_result(None)

    def _routed(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/embeddings", self._counted(self._embeddings), methods=["POST"]),
                Route("/v1/models", self._guarded(self._models)),
                Route("/v1/models/{name:path}", self._guarded(self._model)),
                Route("/metrics", self._guarded(self._scrape)),
                Route("/health", self._health),
            ],
            exception_handlers={HTTPException: _no_route, Exception: _unexpected},
        )

    # The way of a request for embeddings

    def _counted(self, answer: Endpoint) -> Endpoint:
        """Every request for embeddings ends with a status, and is counted by it."""
        guarded = self._guarded(answer)

        async def endpoint(request: Request) -> Response:
            began = time.monotonic()
            try:
                response = await guarded(request)
            except ClientDisconnect:
                response = Response(status_code=GONE)  # nobody reads it
            seconds = time.monotonic() - began
            self._metrics.ended(response.status_code, seconds)
            fields = {"status": response.status_code, "seconds": f"{seconds:.3f}"}
            log.debug("a request ended", extra=fields)
            return response

        return endpoint

    def _guarded(self, answer: Endpoint) -> Endpoint:
        """Only those who may ask are answered, and each error in OpenAI's shape."""

        async def endpoint(request: Request) -> Response:
            try:
                self._guard.check(request.headers)
                return await answer(request)
            except ClientDisconnect:
                raise
            except Exception as error:
                return _refused(refusal_of(error))

        return endpoint

    async def _embeddings(self, request: Request) -> Response:
        with self._room.entered(request.headers):
            asked = read(await self._room.body(request), self._space)
            kind = Kind(asked.role, asked.instruction)
            work = self._joiner.embed(asked.texts, kind)
            embedded = await self._while_wanted(request, work)
        if embedded.errors:
            raise texts_without_vector(embedded.errors, len(asked.texts))
        return answers.embeddings(embedded.vectors, asked.encoding, self._space, embedded.tokens)

    async def _embed(self, texts: Sequence[str], kind: Kind) -> EmbedResult:
        result = await self._embedder.embed(texts, kind.role, instruction=kind.instruction)
        self._counts.pay(result)
        return result

    async def _while_wanted(self, request: Request, work: Coroutine[Any, Any, T]) -> T:
        """The work's result, unless its client leaves or the server gives up: then it is cancelled,
        and with it what is out for it."""
        task = asyncio.create_task(work)
        gone = asyncio.create_task(_disconnected(request))
        ends: set[asyncio.Future[Any]] = {task, gone, self._given_up}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            if gone.done():
                raise ClientDisconnect
            raise Refusal(503, "stopping", "this server is being stopped", retry_after_seconds=1)
        finally:
            task.cancel()
            gone.cancel()
            await asyncio.gather(task, gone, return_exceptions=True)

    # What else may be asked

    async def _models(self, request: Request) -> Response:
        return as_json({"object": "list", "data": [answers.model(self._space, self._since)]})

    async def _model(self, request: Request) -> Response:
        check_model(request.path_params["name"], self._space)
        return as_json(answers.model(self._space, self._since))

    async def _scrape(self, request: Request) -> Response:
        content = generate_latest(self._metrics.registry)
        return Response(content, headers={"content-type": CONTENT_TYPE_LATEST})

    async def _health(self, request: Request) -> Response:
        """Whether this process takes requests; asks no offer, which would cost something."""
        return as_json({"status": "ok"})


async def _disconnected(request: Request) -> None:
    """Return when the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _refused(refusal: Refusal) -> Response:
    response = as_json(refusal.content(), refusal.status)
    response.headers.update(refusal.headers())
    return response


async def _no_route(request: Request, error: Exception) -> Response:
    """A path or a method that is not here."""
    status = error.status_code if isinstance(error, HTTPException) else 404
    path = request.url.path[:60]
    message = f"nothing is served at {request.method} {path}; there are {ROUTES}"
    response = _refused(Refusal(status, "not_found", message))
    if isinstance(error, HTTPException):
        response.headers.update(error.headers or {})  # which methods a path allows
    return response


async def _unexpected(request: Request, error: Exception) -> Response:
    return _refused(refusal_of(error))
