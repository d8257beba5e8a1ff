"""`qwen-embed embed`: texts in, vectors out."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from qwen_embed_plugins.cli.failures import Unfinished
from qwen_embed_plugins.cli.progress import Meter, metered
from qwen_embed_plugins.cli.session import common_options, current, embedding_options, joined
from qwen_embed_plugins.cli.texts import count_lines, lines_of, portions
from qwen_embed_plugins.cli.vector_files import FORMATS, VectorWriter, destination, writer_for
from qwen_embed_plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qwen_embed_plugins.embedder import Embedder
    from qwen_embed_plugins.events import Event
    from qwen_embed_plugins.types import EmbedResult, Role, TextError

SHOWN_FAILURES = 10


@click.command(
    epilog="""
    \b
    Examples:
      qwen-embed embed "Hello" "Привет" --dimensions 1024
      qwen-embed embed --query "capital of China" --use ollama
      qwen-embed embed --file texts.txt --format npy --output vectors.npy
    """
)
@click.argument("texts", nargs=-1, metavar="[TEXT]...")
@click.option(
    "--file",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="Embed each line of FILE; - is standard input.",
)
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
    "--keep-going",
    is_flag=True,
    help="Write the vectors there are; null (NaN in npy) where a text has none.",
)
@embedding_options
@common_options
def embed(
    texts: tuple[str, ...],
    file: str | None,
    query: bool,
    output: str | None,
    form: str,
    keep_going: bool,
    model: str | None,
    dimensions: int | None,
    use: tuple[str, ...],
) -> None:
    """Turn texts into vectors of unit length, one for each text, in order.

    A text that nobody takes is named on standard error and the exit code is 1. Then nothing is
    written (jsonl on standard output ends before that text), unless --keep-going.
    """
    _check(texts, file, output, form)
    settings = current().load_settings(model=model, dimensions=dimensions, use=joined(use))
    from qwen_embed_plugins.embedder import Embedder
    from qwen_embed_plugins.plugins import load_plugins

    counter = _Counter()
    registry = load_plugins(extra={"progress of this command": counter})
    at_once = form != "jsonl" and not (form == "json" and keep_going)
    with (
        Embedder(settings, registry=registry) as embedder,
        _source(texts, file) as source,
        destination(output, at_once=at_once) as target,
    ):
        job = _Job(
            embedder,
            writer_for(form, target, embedder.space.dimensions),
            role="query" if query else "document",
            unit="line" if file else "text",
            keep_going=keep_going,
        )
        quiet = current().quiet or file is None
        total = count_lines(file) if file and not quiet else len(texts)
        with metered("Embedding", total, quiet=quiet) as meter:
            counter.meter = meter
            job.run(source, counter)
    job.report()


def _check(texts: Sequence[str], file: str | None, output: str | None, form: str) -> None:
    if texts and file:
        raise click.UsageError("give texts or --file, not both")
    if not texts and not file:
        raise click.UsageError("no text: give TEXT, or --file FILE (- is standard input)")
    if form == "npy" and output is None and sys.stdout.isatty():
        raise click.UsageError("npy is binary: add --output FILE, or send it into a pipe")


@contextmanager
def _source(texts: tuple[str, ...], file: str | None) -> Iterator[Iterable[str]]:
    if file is None:
        yield texts
    else:
        with lines_of(file) as lines:
            yield lines


class _Counter:
    """Sees each answer as it comes, so that a bar moves within a portion too."""

    meter: Meter | None = None
    done = 0

    @hookimpl
    def observe(self, event: Event) -> None:
        from qwen_embed_plugins.events import AttemptFinished

        if isinstance(event, AttemptFinished) and event.fault is None:
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
        role: Role,
        unit: str,
        keep_going: bool,
    ) -> None:
        self._embedder = embedder
        self._writer = writer
        self._role: Role = role
        self._unit = unit
        self._keep_going = keep_going
        self.count = 0
        self.failed = 0

    def run(self, texts: Iterable[str], counter: _Counter) -> None:
        for portion in portions(texts):
            result = self._embedder.embed(portion, self._role)
            self._name_failures(result.errors)
            self._write(result)
            self.count += len(portion)
            counter.reach(self.count)
            if self.failed and not self._keep_going:
                raise Unfinished(f"{self._failures()}; --keep-going writes the others")
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
        self._writer.write(whole, missing)

    def _failures(self) -> str:
        texts = "text has" if self.failed == 1 else "texts have"
        return f"{self.failed} {texts} no vector"

    def _name_failures(self, errors: Sequence[TextError]) -> None:
        for error in errors:
            self.failed += 1
            if self.failed <= SHOWN_FAILURES:
                number = self.count + error.position + 1
                _say(f"{self._unit} {number}: {error.kind}: {error.message}")
            elif self.failed == SHOWN_FAILURES + 1:
                _say("further ones are only counted")


def _say(message: Any) -> None:
    from qwen_embed_plugins.errors import without_secrets

    sys.stderr.write(without_secrets(" ".join(str(message).split())) + "\n")
