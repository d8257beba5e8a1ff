"""Commands on a pseudo-terminal, as a person has them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.acceptance.conftest import Run

CTRL_C = b"\x03"
MOST_SECONDS = 60
SECONDS_TO_READ_A_QUESTION = 0.5
"""CPython loses a Ctrl-C that comes after its prompt is drawn and before it waits for the answer, a
few microseconds which a loaded machine makes many. Nobody who reads the question is as fast."""

CONTROLLED = (
    "import fcntl, os, sys, termios\n"
    "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    "os.execv(sys.argv[1], sys.argv[1:])\n"
)
"""Makes the terminal the one that sends Ctrl-C. In a process of its own: `preexec_fn` may deadlock
where threads run."""

SEVERAL = (
    "import sys\n"
    "from qwen_embed_plugins.cli import main\n"
    "for line in sys.argv[1:]:\n"
    "    print(f'[{line}]', flush=True)\n"
    "    code = main(line.split())\n"
    "    assert code == 0, (line, code)\n"
)
"""Several commands in one process: a third of a second less for each."""


def plain(drawn: str) -> str:
    """What stays readable: without escape sequences."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn)


class Terminal:
    """A program on a terminal of its own, which sends it Ctrl-C."""

    def __init__(self, run: Run, program: Sequence[str], columns: int, env: dict[str, str]) -> None:
        self._leader, follower = pty.openpty()
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self._modes = termios.tcgetattr(self._leader)
        self._run = run
        self._bytes = b""
        self.process = subprocess.Popen(
            [sys.executable, "-ISc", CONTROLLED, *program],
            stdin=follower,
            stdout=follower,
            stderr=follower,
            start_new_session=True,
            env=run.environment(TERM="xterm-256color", COLUMNS=str(columns)) | env,
        )
        os.close(follower)

    @property
    def drawn(self) -> str:
        """All that was drawn by now."""
        return self._bytes.decode("utf-8", "replace")

    def wait_for(self, text: str) -> None:
        """Read until it says so."""
        while text not in plain(self.drawn):
            assert self._read(), f"ended without {text!r}: {plain(self.drawn)}"

    def wait_for_question(self, text: str) -> None:
        """Read until it asks so, and as long as a person reads."""
        self.wait_for(text)
        time.sleep(SECONDS_TO_READ_A_QUESTION)

    def press(self, key: bytes) -> None:
        os.write(self._leader, key)

    def end(self) -> int:
        """Read to the end; gives the exit code."""
        while self._read():
            pass
        code = self.process.wait(timeout=MOST_SECONDS)
        self._run.check_output(self.drawn)
        return code

    def assert_as_before(self) -> None:
        """Its modes are what they were, its cursor is shown, and the next prompt has its line."""
        assert termios.tcgetattr(self._leader) == self._modes
        hidden, shown = self.drawn.rfind("\x1b[?25l"), self.drawn.rfind("\x1b[?25h")
        assert hidden <= shown
        assert plain(self.drawn)[-1:] in ("", "\n")

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        os.close(self._leader)

    def _read(self) -> bool:
        ready, _, _ = select.select([self._leader], [], [], MOST_SECONDS)
        assert ready, f"silent for {MOST_SECONDS} s: {plain(self.drawn)}"
        try:
            chunk = os.read(self._leader, 65536)
        except OSError:  # Linux says so when the other side is closed
            chunk = b""
        self._bytes += chunk
        return bool(chunk)


@contextlib.contextmanager
def terminal(run: Run, *arguments: object, columns: int = 80, **env: str) -> Iterator[Terminal]:
    """The command, started on a terminal of so many columns."""
    program = [*run.command, *map(str, arguments)]
    started = Terminal(run, program, columns, env)
    try:
        yield started
    finally:
        started.close()


def on_terminal(run: Run, *arguments: object, columns: int = 80, **env: str) -> str:
    """What a command that succeeds draws on a terminal of so many columns."""
    with terminal(run, *arguments, columns=columns, **env) as shown:
        assert shown.end() == 0, plain(shown.drawn)
        shown.assert_as_before()
        return shown.drawn


def each_on_terminal(
    run: Run, commands: Sequence[str], *, columns: int = 80, **env: str
) -> dict[str, str]:
    """What each of several commands draws, all of them in one process."""
    shown = Terminal(run, [sys.executable, "-c", SEVERAL, *commands], columns, env)
    try:
        assert shown.end() == 0, plain(shown.drawn)
    finally:
        shown.close()
    drawn = {}
    rest = shown.drawn.replace("\r\n", "\n")
    for command in reversed(commands):
        rest, _, drawn[command] = rest.rpartition(f"[{command}]\n")
    return drawn
