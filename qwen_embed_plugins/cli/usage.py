"""`qwen-embed usage`: what was used, what is left of grants and budgets, and what is free."""

from __future__ import annotations

import re
from contextlib import closing
from datetime import date
from time import time
from typing import TYPE_CHECKING, Any

import click

from qwen_embed_plugins.cli.html_file import earlier_page, html_option, write_page
from qwen_embed_plugins.cli.output import json_option, print_json
from qwen_embed_plugins.cli.session import common_options, current, embedding_options, joined

if TYPE_CHECKING:
    from qwen_embed_plugins.cli.claims import Corrected, Correction
    from qwen_embed_plugins.setup import Setup

PAGE_KIND = "qwen-embed usage"

NO_DAY = "expected a day that is not ahead, such as 2026-11-01, or a number of days such as 7d"


def _since(context: click.Context, _: click.Parameter, said: str | None) -> date | None:
    """The first day that is told of, in UTC."""
    from datetime import datetime, timedelta, timezone

    if said is None:
        return None
    today = datetime.now(timezone.utc).date()
    count = re.fullmatch(r"([1-9]\d{0,5})d", said.strip().lower())
    if count:
        return date.fromordinal(max(1, today.toordinal() - int(count[1]) + 1))
    try:
        day = date.fromisoformat(said.strip())
    except ValueError:
        raise click.BadParameter(f"{said[:40]!r}: {NO_DAY}") from None
    # A clock that runs ahead of UTC may be in its next day already.
    if day > today + timedelta(days=1):
        raise click.BadParameter(f"{said[:40]!r}: {NO_DAY}")
    return day


def _corrections(
    context: click.Context, _: click.Parameter, said: tuple[str, ...]
) -> list[Correction]:
    from qwen_embed_plugins.cli.claims import correction
    from qwen_embed_plugins.errors import shown

    wanted = []
    for item in said:
        try:
            wanted.append(correction(item))
        except ValueError as error:
            raise click.BadParameter(f"{shown(item)}: {error}") from None
    return wanted


@click.command(
    epilog="""
    \b
    Examples:
      qwen-embed usage --since 7d
      qwen-embed usage --set deepinfra=12000000 --set fireworks=0.80usd
      qwen-embed usage --html usage.html
    """
)
@click.option(
    "--since",
    metavar="DATE",
    callback=_since,
    help="Tell what was used from this day on (UTC), or in the last days: 7d.",
)
@click.option(
    "--set",
    "corrections",
    multiple=True,
    metavar="NAME=AMOUNT",
    callback=_corrections,
    help="Correct a claimed grant to what its provider says is left: tokens, or 1.20usd.",
)
@html_option("Write it to FILE, a page for a browser with charts by day, instead of a table.")
@embedding_options
@json_option
@common_options
def usage(
    since: date | None,
    corrections: list[Correction],
    html: str | None,
    model: str | None,
    dimensions: int | None,
    use: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show what was used, and what is left of grants, budgets and limits.

    Counts every attempt of all processes that share the state. What is held, for attempts under way
    or in advance, counts as used until it is given back. What is free is added up for one space
    alone. --verbose shows limits that have room, too. Reaches no provider.
    """
    from qwen_embed_plugins.setup import Setup

    if corrections and since:
        raise click.UsageError("--since tells, --set corrects: give one of them")
    if corrections and html:
        raise click.UsageError("--html tells, --set corrects: give one of them")
    if html:
        earlier_page(html, PAGE_KIND)  # refuses a file of somebody else before anything is done
    settings = current().load_settings(model=model, dimensions=dimensions, use=joined(use))
    setup = Setup.make(settings, None)
    if corrections:
        _correct(setup, corrections, as_json=as_json)
        return
    from qwen_embed_plugins.cli.usage_report import as_dict, report
    from qwen_embed_plugins.cli.usage_text import print_report

    with closing(setup.books()) as books:
        found = report(setup, books.read(), time(), since)
    if html:
        from qwen_embed_plugins.cli.usage_html import usage_page

        write_page(html, usage_page(PAGE_KIND, found))
    if as_json:
        print_json(as_dict(found))
    elif not html:
        print_report(found, all_limits=current().verbose)


def _correct(setup: Setup, corrections: list[Correction], *, as_json: bool) -> None:
    from qwen_embed_plugins.catalogue import offers_of_all_models
    from qwen_embed_plugins.cli.claims import claims_of, correct, without_claim
    from qwen_embed_plugins.cli.usage_text import print_corrected

    offers = list(offers_of_all_models(setup.settings, setup.registry))
    without = without_claim(offers, setup.catalogue.left_out)
    with closing(setup.books()) as books:
        corrected = correct(books, corrections, claims_of(offers), without)
    if as_json:
        print_json({"grants": [_as_dict(item) for item in corrected]})
    else:
        print_corrected(corrected)


def _as_dict(item: Corrected) -> dict[str, Any]:
    claim = item.claim
    return {
        "name": item.name,
        "unit": "usd" if claim.in_money else "tokens",
        "limit": claim.exact(claim.limit),
        "left_before": claim.exact(max(0, claim.limit - item.before)),
        "left_after": claim.exact(claim.limit - item.after),
        "held": claim.exact(item.held),
    }
