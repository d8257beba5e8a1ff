"""`qwen-embed embed`: texts in, vectors out."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import IO, TYPE_CHECKING, Any

import click

from qwen_embed_plugins.cli.database import counted
from qwen_embed_plugins.cli.failures import Interrupted, Unfinished
from qwen_embed_plugins.cli.progress import Meter, metered
from qwen_embed_plugins.cli.session import common_options, current, embedding_options, joined
from qwen_embed_plugins.cli.texts import (
    Unreadable,
    column_of,
    count_texts,
    fields_of,
    lines_of,
    portions,
)
from qwen_embed_plugins.cli.vector_files import (
    FORMATS,
    VectorWriter,
    appending,
    destination,
    naming,
    writer_for,
)
from qwen_embed_plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qwen_embed_plugins.embedder import Embedder
    from qwen_embed_plugins.events import Event
    from qwen_embed_plugins.types import EmbedResult, Role, TextError

log = logging.getLogger(__name__)

SHOWN_FAILURES = 10


@click.command(
    epilog="""
    \b
    Examples:
      qwen-embed embed "Hello" "Привет" --dimensions 1024
      qwen-embed embed --query "capital of China" --use ollama
      qwen-embed embed --file texts.txt --format npy --output vectors.npy
      qwen-embed embed --file rows.csv --field body --format jsonl \\
          --output vectors.jsonl --resume
    """
)
@click.argument("texts", nargs=-1, metavar="[TEXT]...")
@click.option(
    "--file",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="Embed each line of FILE; - is standard input.",
)
@click.option(
    "--field",
    metavar="NAME",
    help="With --file: this field of each line's JSON object, or this column of a CSV file.",
)
@click.option("--csv", "is_csv", is_flag=True, help="It is CSV, though its name ends otherwise.")
@click.option("--query", is_flag=True, help="Embed as queries: the instruction goes before each.")
@click.option(
    "--output",
    type=click.Path(dir_okay=True),
    metavar="FILE",
    help="Write to FILE, whole or not at all.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    default="json",
    show_default=True,
    help="json: a list of lists; jsonl: a list a line; npy: a float32 matrix.",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Go on with an --output of jsonl that was begun: its lines are not paid again.",
)
@click.option(
    "--keep-going",
    is_flag=True,
    help="Write the vectors there are; null (NaN in npy) where a text has none.",
)
@embedding_options
@common_options
def embed(
    texts: tuple[str, ...],
    file: str | None,
    field: str | None,
    is_csv: bool,
    query: bool,
    output: str | None,
    form: str,
    resume: bool,
    keep_going: bool,
    model: str | None,
    dimensions: int | None,
    use: tuple[str, ...],
) -> None:
    """Turn texts into vectors of unit length, one for each text, in order.

    A text that nobody takes is named on standard error and the exit code is 1. Then nothing is
    written (jsonl on standard output, or with --resume, ends before that text), unless
    --keep-going.
    """
    source = Source(file, field, is_csv or (file or "").lower().endswith(".csv"))
    _check(texts, source, output, form)
    if resume and (output is None or form != "jsonl"):
        raise click.UsageError("--resume goes on with a file: add --format jsonl --output FILE")
    settings = current().load_settings(model=model, dimensions=dimensions, use=joined(use))
    from qwen_embed_plugins.embedder import Embedder
    from qwen_embed_plugins.plugins import load_plugins

    counter = _Counter()
    registry = load_plugins(extra={"progress of this command": counter})
    at_once = form != "jsonl" and not (form == "json" and keep_going)
    with (
        Embedder(settings, registry=registry) as embedder,
        source.opened(texts) as found,
        _target(output, embedder.space.dimensions, at_once=at_once, resume=resume) as (
            target,
            done,
        ),
    ):
        job = _Job(
            embedder,
            writer_for(form, target, embedder.space.dimensions),
            output=output,
            role="query" if query else "document",
            unit="line" if file else "text",
            keep_going=keep_going,
            done=_skipped(found, done, output),
        )
        # Lines that are printed as they come show by themselves how far it is.
        quiet = current().quiet or file is None or (not (at_once or output) and sys.stdout.isatty())
        total = len(texts) if quiet or not file else count_texts(file, is_csv=source.is_csv_field)
        try:
            with metered("Embedding", total, quiet=quiet) as meter:
                counter.meter = meter
                counter.reach(job.count)
                job.run(found, counter)
        except KeyboardInterrupt:
            said = _interrupted(counter.done, job.count, output, resume=resume, at_once=at_once)
            raise Interrupted(said) from None
    job.report()


def _interrupted(
    done: int, written: int, output: str | None, *, resume: bool, at_once: bool
) -> str:
    """What was done when Ctrl-C came, and what is left of it."""
    if output is not None and resume:
        return f"{counted(written, 'line')} in {output}; the same command goes on from there"
    if output is None and not at_once:
        return f"{counted(written, 'text')} written"
    if not done:
        return ""
    keeping = "" if output is None else "; --format jsonl with --resume would keep them"
    return f"{counted(done, 'text')} embedded, nothing written{keeping}"


@dataclass(frozen=True, slots=True)
class Source:
    """Where texts come from: arguments, or a file's lines, one field of them, or a CSV column."""

    file: str | None
    field: str | None
    is_csv: bool

    @property
    def is_csv_field(self) -> bool:
        return self.is_csv and self.field is not None

    @contextmanager
    def opened(self, texts: Sequence[str]) -> Iterator[Iterator[str]]:
        """The texts, not read at once."""
        if self.file is None:
            yield iter(texts)
            return
        if self.field is None:
            reading = lines_of(self.file)
        elif self.is_csv:
            reading = column_of(self.file, self.field)
        else:
            reading = fields_of(self.file, self.field)
        with reading as found:
            yield found


def _check(texts: Sequence[str], source: Source, output: str | None, form: str) -> None:
    if texts and source.file:
        raise click.UsageError("give texts or --file, not both")
    if source.field is not None and not source.file:
        raise click.UsageError("--field names what to read of a --file")
    if source.is_csv and source.field is None:
        raise click.UsageError("of a CSV file one column is embedded: add --field NAME")
    if not texts and not source.file:
        raise click.UsageError("no text: give TEXT, or --file FILE (- is standard input)")
    if form == "npy" and output is None and sys.stdout.isatty():
        raise click.UsageError("npy is binary: add --output FILE, or send it into a pipe")


@contextmanager
def _target(
    output: str | None, dimensions: int, *, at_once: bool, resume: bool
) -> Iterator[tuple[IO[bytes], int]]:
    """Where rows go, and how many are there already."""
    if resume and output is not None:
        with appending(output, dimensions) as begun:
            yield begun
    else:
        with destination(output, at_once=at_once) as target:
            yield target, 0


def _skipped(texts: Iterator[str], done: int, output: str | None) -> int:
    """Pass over the texts that have their row already."""
    passed = sum(1 for _ in islice(texts, done))
    if passed < done:
        raise click.UsageError(
            f"--resume: {output} has {done} lines, and there are {passed} texts only: it was begun "
            "with others"
        )
    return done


class _Counter:
    """Sees each answer as it comes: a bar moves within a portion too, and --verbose tells of it."""

    meter: Meter | None = None
    done = 0

    @hookimpl
    def observe(self, event: Event) -> None:
        from qwen_embed_plugins.events import AttemptFinished

        if not isinstance(event, AttemptFinished):
            return
        tried = {"offer": event.offer, "texts": event.texts, "tokens": event.tokens}
        log.debug("an attempt ended", extra={**tried, "fault": event.fault or "none"})
        if event.fault is None:
            self.reach(self.done + event.texts)

    def reach(self, done: int) -> None:
        self.done = done
        if self.meter is not None:
            self.meter.show(done)


class _Job:
    """One run over all texts: portions in, rows out, failures named."""

    def __init__(
        self,
        embedder: Embedder,
        writer: VectorWriter,
        *,
        output: str | None,
        role: Role,
        unit: str,
        keep_going: bool,
        done: int = 0,
    ) -> None:
        self._embedder = embedder
        self._writer = writer
        self._output = output
        self._role: Role = role
        self._unit = unit
        self._keep_going = keep_going
        self.count = done
        self.failed = 0

    def run(self, texts: Iterable[str], counter: _Counter) -> None:
        for portion in portions(texts):
            result = self._embedder.embed(portion, self._role)
            self._name_failures(result.errors, portion)
            self._write(result)
            self.count += len(portion)
            counter.reach(self.count)
            if self.failed and not self._keep_going:
                raise Unfinished(f"{self._failures()}; --keep-going writes the others")
        with naming(self._output):
            self._writer.finish()

    def report(self) -> None:
        """Fail if a text has no vector, once the others are safely written."""
        if self.failed:
            raise Unfinished(f"{self._failures()}; the others are written")

    def _write(self, result: EmbedResult) -> None:
        missing = {error.position for error in result.errors}
        whole = result.vectors
        if missing and not self._keep_going:
            whole, missing = whole[: min(missing)], set()
        with naming(self._output):
            self._writer.write(whole, missing)

    def _failures(self) -> str:
        texts = "text has" if self.failed == 1 else "texts have"
        return f"{self.failed} {texts} no vector"

    def _name_failures(self, errors: Sequence[TextError], portion: Sequence[str]) -> None:
        for error in errors:
            self.failed += 1
            if self.failed <= SHOWN_FAILURES:
                number = self.count + error.position + 1
                _say(f"{self._unit} {number}: {_why(error, portion[error.position])}")
            elif self.failed == SHOWN_FAILURES + 1:
                _say("further ones are only counted")


def _why(error: TextError, text: str) -> str:
    if isinstance(text, Unreadable):
        return f"bad_input: {text.reason}"
    return f"{error.kind}: {error.message}"


def _say(message: Any) -> None:
    from qwen_embed_plugins.errors import without_secrets

    sys.stderr.write(without_secrets(" ".join(str(message).split())) + "\n")
