"""Waking at once where an owner asked for it: a connection that hears the triggers' NOTIFY.

Polling stays the truth. What is not heard, behind a pooler in transaction mode for example, is
found by the next look.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

import psycopg

from qwen_embed_plugins.postgres import connect

log = logging.getLogger("qwen_embed_plugins.postgres.worker")

CHANNEL = "qwen_embed"
_LOOK_SECONDS = 2.0
_AGAIN_SECONDS = 30.0


async def listen(
    address: str, *, wanted: Callable[[], bool], wake: asyncio.Event, stopping: asyncio.Event
) -> None:
    """Set `wake` whenever a trigger notifies, while `wanted` says so, until stopped.

    Raises nothing: a connection that cannot be had or is lost is tried again after half a minute.
    """
    while not stopping.is_set():
        pause = _LOOK_SECONDS
        if wanted():
            try:
                await _hear(address, wanted, wake, stopping)
            except psycopg.Error as error:
                log.info("not listening", extra={"reason": connect.explain(error)})
                pause = _AGAIN_SECONDS
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(stopping.wait(), pause)


async def _hear(
    address: str, wanted: Callable[[], bool], wake: asyncio.Event, stopping: asyncio.Event
) -> None:
    async with await connect.aconnect(address) as connection:
        await connection.execute(f"LISTEN {CHANNEL}")
        wake.set()  # for what was notified before
        while wanted() and not stopping.is_set():
            async for _ in connection.notifies(timeout=_LOOK_SECONDS):
                wake.set()
                if stopping.is_set():
                    return
