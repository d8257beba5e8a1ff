"""`qwen-embed route`: where a job would go and what it would cost, without asking anyone."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from qwen_embed_plugins.cli.output import json_option, print_json
from qwen_embed_plugins.cli.session import common_options, current, embedding_options, joined
from qwen_embed_plugins.cli.texts import lines_of, portions

if TYPE_CHECKING:
    from qwen_embed_plugins.rehearsal import Workload
    from qwen_embed_plugins.setup import Setup
    from qwen_embed_plugins.types import Role

ASSUMED_TOKENS = 256
"""How long a text is taken to be where only the tokens of all are known."""

MOST_TOKENS = 10**12
"""The largest job: a rehearsal of it takes seconds, of a much larger one for ever."""


@click.command(
    epilog="""
    \b
    Examples:
      qwen-embed route
      qwen-embed route --tokens 5000000 --texts 20000
      qwen-embed route --file texts.txt
    """
)
@click.argument("texts", nargs=-1, metavar="[TEXT]...")
@click.option(
    "--file",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="The job is each line of FILE; - is standard input.",
)
@click.option("--query", "is_query", is_flag=True, help="For queries; default: for documents.")
@click.option(
    "--tokens",
    type=click.IntRange(1, MOST_TOKENS),
    metavar="N",
    help="Tokens of all texts, as the services count them.",
)
@click.option("--texts", "number", type=click.IntRange(min=1), metavar="M", help="So many texts.")
@embedding_options
@json_option
@common_options
def route(
    texts: tuple[str, ...],
    file: str | None,
    is_query: bool,
    tokens: int | None,
    number: int | None,
    model: str | None,
    dimensions: int | None,
    use: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show which offers a job would go to, in which order, and what it would cost.

    Nothing is sent, spent or learnt: the router is rehearsed on paper, from what is known and was
    counted by now. Without a job, only the order is shown. What a cache already holds is not
    taken off the job.
    """
    _check(texts, file, tokens, number)
    from qwen_embed_plugins.cli.route_report import print_plan, report
    from qwen_embed_plugins.setup import Setup

    settings = current().load_settings(model=model, dimensions=dimensions, use=joined(use))
    setup = Setup.make(settings, None)
    role: Role = "query" if is_query else "document"
    workload = None
    if texts or file:
        with _source(texts, file) as source:
            workload = _workload(setup, role, source)
    elif tokens:
        from qwen_embed_plugins.rehearsal import Workload

        _check_length(setup, tokens, number)
        workload = Workload(number or -(-tokens // ASSUMED_TOKENS), tokens)
    is_estimate = tokens is None
    if workload is not None and tokens is not None:
        workload = workload.counted(tokens)
    plan = report(setup, role, workload, time.time(), is_estimate=is_estimate)
    if as_json:
        print_json(plan)
        return
    print_plan(plan)
    if tokens and not (number or texts or file):
        click.echo(f"Texts of about {ASSUMED_TOKENS} tokens are assumed; --texts M says how many.")


def _check(
    texts: tuple[str, ...], file: str | None, tokens: int | None, number: int | None
) -> None:
    if texts and file:
        raise click.UsageError("give texts or --file, not both")
    if number and (texts or file):
        raise click.UsageError("--texts counts texts that are not given: leave it out")
    if number and not tokens:
        raise click.UsageError(
            f"the length of {number} texts is not known: give --tokens N (all together), or the "
            "texts themselves with --file FILE"
        )
    if number and tokens and tokens < number:
        raise click.UsageError(
            f"{tokens} tokens for {number} texts: --tokens is for all together, at least one a text"
        )


def _check_length(setup: Setup, tokens: int, number: int | None) -> None:
    """No offer reads texts so long, and a rehearsal would try with texts of that length."""
    model = setup.catalogue.model
    if number and tokens > number * model.context_tokens:
        raise click.UsageError(
            f"{tokens:,} tokens for --texts {number:,}: {model.name} reads at most "
            f"{model.context_tokens:,} tokens a text; give --texts of at least "
            f"{-(-tokens // model.context_tokens):,}"
        )


@contextmanager
def _source(texts: tuple[str, ...], file: str | None) -> Iterator[Iterable[str]]:
    if file is None:
        yield texts
    else:
        with lines_of(file) as lines:
            yield lines


def _workload(setup: Setup, role: Role, source: Iterable[str]) -> Workload:
    """What `embed` would send of these texts: none that is empty, equal ones of a portion once."""
    from qwen_embed_plugins.planning import plan
    from qwen_embed_plugins.rehearsal import Workload, prefix_tokens

    instruction = setup.settings.instruction
    sent = (
        text
        for portion in portions(source)
        for text in plan(portion, role, setup.space, instruction).request.texts
    )
    workload = Workload.of(sent, prefix_tokens(setup, role))
    if not workload.count:
        raise click.UsageError("there is no text in it, or none but empty ones")
    return workload
