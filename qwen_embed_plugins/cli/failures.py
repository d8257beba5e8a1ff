"""Every failure becomes one line on standard error and an exit code."""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Callable
from typing import TextIO

import click

from qwen_embed_plugins.cli.sql_hints import as_commands
from qwen_embed_plugins.errors import (
    ConfigurationError,
    DatabaseError,
    InvalidInput,
    QwenEmbedError,
    without_secrets,
)

PROGRAM = "qwen-embed"
LOGGER = "qwen_embed_plugins"

REFUSED = 1
WRONG_ARGUMENTS = 2
INTERRUPTED = 130
"""128 and the number of SIGINT, as shells report a program that Ctrl-C ended."""

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

BROKEN_PIPE = 141
"""128 and the number of SIGPIPE, as shells report `yes` in `yes | head`."""


class Unfinished(click.ClickException):
    """Work remains: said in one line, exit code 1."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, and what was done by then."""


def guarded(command: Callable[[], int]) -> int:
    """Run a command; what it raises is said in one line, and becomes the exit code."""
    code = 0
    error: Exception | KeyboardInterrupt | None = None
    try:
        code = command()
    except (Exception, KeyboardInterrupt) as raised:
        error = raised
    lost = _lost_output()
    if lost is not None and (error is None or isinstance(error, OSError)):
        error = lost  # the same, and says which file it was
    return code if error is None else _told(error)


def _told(error: Exception | KeyboardInterrupt) -> int:
    if isinstance(error, BrokenPipeError):
        return BROKEN_PIPE
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        _complain_of_interruption(error)
        return INTERRUPTED
    complain(describe(error))
    if not _is_expected(error) and logging.getLogger(LOGGER).isEnabledFor(logging.DEBUG):
        _show_traceback(error)
    return exit_code(error)


def _complain_of_interruption(error: BaseException) -> None:
    done = str(error) if isinstance(error, Interrupted) else ""
    if sys.stderr.isatty():
        # The terminal has shown ^C: at the end of a question, else alone on its line.
        click.echo("\n" if isinstance(error, click.Abort) else "\r", err=True, nl=False)
    complain(f"interrupted: {done}" if done else "interrupted")


def complain(message: str) -> None:
    """Say one thing on standard error, on one line and without secrets."""
    line = without_secrets(" ".join(message.split()))
    try:
        click.echo(f"{PROGRAM}: {line}", err=True)
    except OSError:  # its reader went away, its disk is full: nobody is left to be told
        _abandon(sys.stderr)


def exit_code(error: Exception) -> int:
    """What the shell is told."""
    if isinstance(error, click.ClickException):
        return error.exit_code
    return WRONG_ARGUMENTS if isinstance(error, (ConfigurationError, InvalidInput)) else REFUSED


def describe(error: Exception) -> str:
    """What the user is told."""
    if isinstance(error, click.UsageError):
        return _usage(error)
    if isinstance(error, Unfinished):
        return as_commands(error.format_message())
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, DatabaseError):
        return as_commands(str(error))
    if isinstance(error, QwenEmbedError):
        return str(error)
    if isinstance(error, OSError):
        what = error.strerror or str(error) or type(error).__name__
        # Our own files are named; what stands in no buffer any more was to be printed.
        where = error.filename or ("standard output" if error.errno in _NO_ROOM else None)
        return f"{where}: {what}" if where else what
    return (
        f"internal error: {type(error).__name__}: {error} (--verbose shows where; please report it)"
    )


def _is_expected(error: Exception) -> bool:
    return isinstance(error, (click.ClickException, QwenEmbedError, OSError))


def _usage(error: click.UsageError) -> str:
    message = error.format_message().rstrip(".")
    if error.ctx is None or "--help" in message:
        return message
    joint = " See" if message.endswith("?") else "; see"
    return f"{message}{joint} {error.ctx.command_path} --help"


def _show_traceback(error: Exception) -> None:
    import traceback

    text = "".join(traceback.format_exception(error))
    click.echo(without_secrets(text), err=True, nl=False)


def _lost_output() -> OSError | None:
    """Why what was printed did not arrive, if so."""
    try:
        sys.stdout.flush()
    except OSError as error:
        _abandon(sys.stdout)
        error.filename = "standard output"
        return error
    return None


def _abandon(stream: TextIO) -> None:
    """Let the interpreter's own flush at exit go nowhere: it would complain about the stream, and
    give an exit code of its own."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
