"""What holds for every command: the settings file, how much is said, and the log's lines."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TypeVar

import click

from qwen_embed_plugins.cli import names
from qwen_embed_plugins.cli.failures import LOGGER

if TYPE_CHECKING:
    from qwen_embed_plugins.settings import Settings

_PLAIN = logging.makeLogRecord({}).__dict__.keys() | {"message", "asctime"}
"""What every log record has; the rest are the fields of the event."""

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(slots=True)
class Session:
    """The options that stand before a command or after it."""

    settings_file: str | None = None
    quiet: bool = False
    verbose: bool = False

    def load_settings(self, **arguments: Any) -> Settings:
        """The settings in force, with a command's own options on top."""
        from qwen_embed_plugins.settings import Settings

        return Settings.load(self.settings_file, **arguments)


def current() -> Session:
    """The session of the running command."""
    return click.get_current_context().ensure_object(Session)


class LogLines(logging.Handler):
    """Plain lines on whatever standard error is now: a progress bar puts itself in its place."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
        except BrokenPipeError:
            raise
        except Exception:
            self.handleError(record)


class _Format(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        from qwen_embed_plugins.cli.sql_hints import as_commands
        from qwen_embed_plugins.errors import without_secrets

        keys = sorted(record.__dict__.keys() - _PLAIN)
        fields = [f"{key}: {record.__dict__[key]}" for key in keys]
        said = ", ".join([record.getMessage(), *fields])
        if record.name.startswith("qwen_embed_plugins.postgres"):
            said = as_commands(said)
        message = without_secrets(" ".join(said.split()))
        if record.levelno >= logging.WARNING:
            return f"{record.levelname.lower()}: {message}"
        return message


class _JsonFormat(logging.Formatter):
    """One object a line: when, how grave, what happened, and the fields of the event."""

    def format(self, record: logging.LogRecord) -> str:
        import orjson

        from qwen_embed_plugins.errors import without_secrets

        fields = {name: record.__dict__[name] for name in record.__dict__.keys() - _PLAIN}
        moment = datetime.fromtimestamp(record.created, timezone.utc)
        event = {
            "time": moment.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **dict(sorted(fields.items())),
        }
        written = {
            name: without_secrets(value) if isinstance(value, str) else value
            for name, value in event.items()
        }
        return orjson.dumps(written, default=str).decode()


log_format_option = click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How the log's lines are written: for people, or an object each.",
)


def log_as(name: str) -> None:
    """Have the log's lines written as `text` or `json`."""
    show_log(logging.getLogger(LOGGER).level or logging.INFO)
    for handler in logging.getLogger(LOGGER).handlers:
        if isinstance(handler, LogLines):
            handler.setFormatter(_JsonFormat() if name == "json" else _Format())


def show_log(level: int = logging.INFO) -> None:
    """Show what the package logs from this level on."""
    logger = logging.getLogger(LOGGER)
    if not any(isinstance(handler, LogLines) for handler in logger.handlers):
        handler = LogLines()
        handler.setFormatter(_Format())
        logger.addHandler(handler)
    logger.setLevel(level)


def _keep_settings(context: click.Context, _: click.Parameter, value: str | None) -> None:
    if value is not None:
        context.ensure_object(Session).settings_file = value


def _keep_quiet(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        _keep(context, logging.WARNING)


def _keep_verbose(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        _keep(context, logging.DEBUG)


def _keep(context: click.Context, level: int) -> None:
    """Of --quiet and --verbose the last one counts, whichever side of the command it stands on."""
    session = context.ensure_object(Session)
    session.quiet, session.verbose = level == logging.WARNING, level == logging.DEBUG
    show_log(level)


def common_options(command: Command) -> Command:
    """The options that every command takes, also before its name."""
    options = (
        click.option(
            "--settings",
            type=click.Path(),
            metavar="FILE",
            expose_value=False,
            callback=_keep_settings,
            help="Settings file; default: $QWEN_EMBED_SETTINGS, ./qwen-embed.toml, the user's own.",
        ),
        click.option(
            "-q",
            "--quiet",
            is_flag=True,
            expose_value=False,
            callback=_keep_quiet,
            help="Say nothing but results, warnings and errors.",
        ),
        click.option(
            "-v",
            "--verbose",
            is_flag=True,
            expose_value=False,
            callback=_keep_verbose,
            help="Say more; after an internal error, show where it happened.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def embedding_options(command: Command) -> Command:
    """Options that choose the embedding space and who serves it, over the settings."""
    options = (
        click.option(
            "--model",
            metavar="NAME",
            shell_complete=names.models,
            help="Model, for example qwen3-embedding-0.6b.",
        ),
        click.option(
            "--dimensions",
            type=click.IntRange(min=1),
            metavar="N",
            help="Length of the vectors; default: the model's own.",
        ),
        click.option(
            "--use",
            multiple=True,
            metavar="PROVIDER",
            shell_complete=names.providers,
            help="Only these providers may receive texts; repeat it, or put commas between.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def joined(use: tuple[str, ...]) -> str | None:
    """The value of `--use` as the settings read it; None if it was not given."""
    return ",".join(use) or None
