"""A signal that ends a command, in the midst of an event loop."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

INTERRUPTED = """
import asyncio
import signal
import sys
from asyncio.events import Handle

from qwen_embed_plugins.cli import signals

number = int(sys.argv[1])
coming = []
step = Handle._run


def interrupted_step(handle):
    if coming:
        signal.raise_signal(coming.pop())
    step(handle)


async def child():
    coming.append(number)
    await asyncio.sleep(0)
    await asyncio.sleep(600)


async def work():
    await asyncio.gather(child())


Handle._run = interrupted_step
if signal.getsignal(number) is signal.SIG_IGN:  # as under nohup, which is to be obeyed
    signal.signal(number, signal.SIG_DFL)
before = signal.getsignal(number)
with signals.interrupting():
    try:
        signals.run(work())
    except KeyboardInterrupt:
        print("interrupted")
assert signal.getsignal(number) == before
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there only SIGINT is known, and not raised")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_between_two_steps_of_a_loop_it_drops_none(name: str) -> None:
    number = signal.Signals[name]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", INTERRUPTED, str(int(number))],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("interrupted\n", "", 0)
