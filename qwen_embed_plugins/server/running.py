"""A server from its start to its end: sockets, signals, and what is finished before it goes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import uvicorn

from qwen_embed_plugins.embedder import AsyncEmbedder
from qwen_embed_plugins.plugins import load_plugins
from qwen_embed_plugins.server.app import Application
from qwen_embed_plugins.server.counts import Counts
from qwen_embed_plugins.server.listening import listen, port_of
from qwen_embed_plugins.settings import Settings

log = logging.getLogger("qwen_embed_plugins.server")

FINISHING_SECONDS = 10
"""How long requests that are under way may take once the server is told to end."""

LINGERING_SECONDS = 3
"""And then how long their refusals may take to be read."""

SAME_SECONDS = 0.5
"""Signals so soon after the first are the same: `timeout` and other parents send theirs on to a
child that has had it from the terminal already."""

KEEPALIVE_SECONDS = 75
"""An idle connection is closed later than clients close theirs (OpenAI's: after 5 s), which might
otherwise send just then."""


class Limits(NamedTuple):
    """What a server takes: bytes of one body, and requests at a time."""

    body_bytes: int = 8_000_000
    requests: int = 512


def run_server(
    settings: Settings, *, host: str, port: int, token: str | None, limits: Limits
) -> Counts:
    """Serve until a signal, and tell what was done. Blocks.

    The first SIGINT or SIGTERM takes no more connections and lets what is under way end, within
    seconds; the second aborts: then `KeyboardInterrupt` is raised. Raises `ConfigurationError`
    before anything is served.
    """
    sockets = listen(host, port, has_token=token is not None)
    try:
        return asyncio.run(_serve(settings, host, sockets, token, limits))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        for bound in sockets:
            bound.close()


async def _serve(
    settings: Settings,
    host: str,
    sockets: Sequence[socket.socket],
    token: str | None,
    limits: Limits,
) -> Counts:
    counts = Counts()
    registry = load_plugins(extra={"counts of the server": counts})
    async with AsyncEmbedder(settings, registry=registry) as embedder:
        application = Application(
            embedder,
            counts,
            token=token,
            most_body_bytes=limits.body_bytes,
            most_requests=limits.requests,
        )
        server = _Server(_configuration(application))
        place = f"[{host}]" if ":" in host else host
        fields = {
            "at": f"http://{place}:{port_of(list(sockets))}/v1",
            "model": embedder.space.model,
            "dimensions": embedder.space.dimensions,
            "who_may_ask": "whoever has the token" if token else "programs of this machine",
        }
        log.info("embeddings are served", extra=fields)
        with _signals(lambda: _stop(server, application)):
            await server.serve(sockets=list(sockets))
    return counts


def _configuration(application: Application) -> uvicorn.Config:
    """Uvicorn's part is HTTP alone. It logs nothing: errors are answered and logged by us, and its
    own lines might hold what a client sent."""
    return uvicorn.Config(
        application.asgi,
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEPALIVE_SECONDS,
        timeout_graceful_shutdown=FINISHING_SECONDS + LINGERING_SECONDS,
    )


class _Server(uvicorn.Server):
    """Signals are ours: uvicorn would raise them again when it has ended, and a server that was
    told to end, and did, is no failure."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _stop(server: uvicorn.Server, application: Application) -> None:
    """Take no more, finish what is under way, give up what takes too long."""
    server.should_exit = True
    log.info("stopping", extra={"requests_under_way": application.under_way})
    asyncio.get_running_loop().call_later(FINISHING_SECONDS, application.give_up)


@contextlib.contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    """The first signal stops; the second cancels the task that is running."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    told_at: float | None = None

    def heed() -> None:
        nonlocal told_at
        if told_at is None:
            told_at = loop.time()
            stop()
        elif task is not None and loop.time() - told_at > SAME_SECONDS:
            task.cancel()

    # Windows loops and threads cannot take signals this way; there Ctrl-C ends asyncio.run itself.
    with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            # What whoever started us ignores, as nohup does, stays ignored.
            if number is not None and signal.getsignal(number) != signal.SIG_IGN:
                loop.add_signal_handler(number, heed)
    yield
