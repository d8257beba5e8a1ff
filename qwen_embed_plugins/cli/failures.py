"""Every failure becomes one line on standard error and an exit code."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from typing import TextIO

import click

from qwen_embed_plugins.errors import (
    ConfigurationError,
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

BROKEN_PIPE = 141
"""128 and the number of SIGPIPE, as shells report `yes` in `yes | head`."""


class Unfinished(click.ClickException):
    """Work remains: said in one line, exit code 1."""


def guarded(command: Callable[[], int]) -> int:
    """Run a command; what it raises is said in one line, and becomes the exit code."""
    try:
        code = command()
        sys.stdout.flush()
    except BrokenPipeError:
        _abandon(sys.stdout)
        return BROKEN_PIPE
    except (KeyboardInterrupt, click.Abort):
        complain("interrupted")
        return INTERRUPTED
    except click.exceptions.Exit as end:
        return end.exit_code
    except Exception as error:
        complain(describe(error))
        if not _is_expected(error) and logging.getLogger(LOGGER).isEnabledFor(logging.DEBUG):
            _show_traceback(error)
        return exit_code(error)
    return code


def complain(message: str) -> None:
    """Say one thing on standard error, on one line and without secrets."""
    line = without_secrets(" ".join(message.split()))
    try:
        click.echo(f"{PROGRAM}: {line}", err=True)
    except BrokenPipeError:
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
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, QwenEmbedError):
        return str(error)
    if isinstance(error, OSError):
        what = error.strerror or str(error) or type(error).__name__
        return f"{error.filename}: {what}" if error.filename else what
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


def _abandon(stream: TextIO) -> None:
    """Let the interpreter's own flush at exit go nowhere: it would complain about the pipe."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
