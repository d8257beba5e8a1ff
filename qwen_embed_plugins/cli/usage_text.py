"""`qwen-embed usage` for people, in 80 columns or as many as the terminal has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import click

from qwen_embed_plugins.amounts import NOTHING
from qwen_embed_plugins.cli.amounts import bar, dollars_text, moment_text, spent_text
from qwen_embed_plugins.cli.claims import Corrected
from qwen_embed_plugins.cli.output import Block, Column, print_blocks, print_table, print_text
from qwen_embed_plugins.cli.terms import grant_text
from qwen_embed_plugins.cli.usage_report import (
    PARTS,
    ClaimStanding,
    OfferUse,
    Report,
    limit_setting,
)
from qwen_embed_plugins.meters import Meter
from qwen_embed_plugins.standing import Standing
from qwen_embed_plugins.windows import Daily

NOTHING_YET = "Nothing was used yet: counting begins with the first text."

COLUMNS = (
    Column("Offer"),
    Column("Requests", right=True, long="fits"),
    Column("Tokens", right=True, long="fits"),
    Column("USD", right=True, long="fits"),
)

BAR_AND_WORDS = (Column("", long="fits"), Column(""))


def print_report(report: Report, *, all_limits: bool) -> None:
    """What was used, what is left, and what is free; limits that have room only if asked for."""
    if report.is_empty:
        click.echo(NOTHING_YET)
    else:
        _print_use(report)
    if report.is_empty and not report.claims:
        return
    limits = [item for item in report.limits if all_limits or is_used_up(item)]
    remainders = [*grants_and_budgets(report), *limit_remainders(limits)]
    if remainders:
        click.echo()
        print_blocks(BAR_AND_WORDS, [_block(remainder) for remainder in remainders])
    click.echo()
    for line in free_lines(report):
        print_text(line)


def print_corrected(corrected: list[Corrected]) -> None:
    """What was left of each grant, and what is left now."""
    for name, claim, before, after, held in corrected:
        was = claim.number_text(max(0, claim.limit - before))
        now, limit = claim.number_text(claim.limit - after), claim.amount_text(claim.limit)
        besides = f"; {claim.amount_text(held)} of it are held" if held else ""
        print_text(f"{name}: left {was} → {now} of {limit}{besides}")


# What was used


def _print_use(report: Report) -> None:
    since = f" since {report.since}" if report.since else ""
    if since:
        click.echo(f"Used{since} (days in UTC)")
    rows = [_use_row(entry) for entry in report.offers]
    print_table(COLUMNS, rows, empty=f"nothing was used{since}")
    click.echo()
    if not all(entry.configured for entry in report.offers):
        click.echo("*: not set up any more")
    for entry in report.offers:
        if entry.held != NOTHING:
            print_text(f"Held besides at {entry.offer}, under way or in advance: {_held(entry)}")
    print_text(
        f"Spent: {spent_text(report.spent_today)} USD today, {spent_text(report.spent)} in total"
    )


def _use_row(entry: OfferUse) -> tuple[str, ...]:
    used = entry.used
    return use_name(entry), f"{used.requests:,}", f"{used.tokens:,}", spent_text(used.money)


def use_name(entry: OfferUse) -> str:
    """An offer with its account, if that goes by another name, and a star if it is not set up."""
    name = entry.offer
    if entry.account != name.partition("/")[0]:
        name += f" ({entry.account})"
    return name if entry.configured else f"{name} *"


def _held(entry: OfferUse) -> str:
    held = entry.held
    money = f", {spent_text(held.money)} USD" if held.money else ""
    return f"{held.requests:,} requests, {held.tokens:,} tokens{money}"


# What is left


class Remainder(NamedTuple):
    """What is left of a grant, a budget or a limit, in its unit, and in words. `used` is said where
    there is room for more than what is left."""

    title: str
    left: int
    limit: int
    held: int
    words: str
    used: str


def grants_and_budgets(report: Report) -> list[Remainder]:
    """What is left of each."""
    return [*map(_claim_remainder, report.claims), *map(_budget_remainder, report.budgets)]


def _claim_remainder(entry: ClaimStanding) -> Remainder:
    claim, standing = entry.claim, entry.standing
    held = claim.part(standing.held)
    words = _words(
        f"{claim.number_text(entry.left)} of {claim.amount_text(claim.limit)} left",
        f"{claim.number_text(held)} held" if held else "",
        _renewal(standing),
        _lapse(entry),
    )
    used = f"{claim.amount_text(claim.part(standing.used))} used"
    return Remainder(f"Grant {entry.name}", entry.left, claim.limit, held, words, used)


def _lapse(entry: ClaimStanding) -> str:
    until = entry.claim.grant.until
    if until is None:
        return ""
    return f"lapsed {moment_text(until)}" if entry.lapsed else f"lapses {moment_text(until)}"


def _renewal(standing: Standing) -> str:
    window = standing.meter.window
    return f"renews at {window}" if isinstance(window, Daily) else ""


def _budget_remainder(standing: Standing) -> Remainder:
    meter, held = standing.meter, standing.held.money
    limit, left = meter.money or 0, standing.left[2] or 0
    words = _words(
        f"{dollars_text(left)} of {dollars_text(limit)} USD left",
        f"{dollars_text(held)} held" if held else "",
        _renewal(standing),
    )
    used = f"{spent_text(standing.used.money)} USD spent"
    return Remainder(budget_name(meter), left, limit, held, words, used)


def budget_name(meter: Meter) -> str:
    """A budget by its setting, and where that stands."""
    return f"Budget {meter.setting} in {meter.table}"


def is_used_up(standing: Standing) -> bool:
    """Whether waiting is for more than a request of somebody's to end."""
    return standing.is_used_up and standing.meter.kind != "flight"


def limit_remainders(limits: Iterable[Standing]) -> Iterator[Remainder]:
    """What is left of each part of each limit."""
    for standing in limits:
        meter, held = standing.meter, standing.held
        for part, left in zip(PARTS, standing.left, strict=False):
            if left is None:
                continue
            limit, holds = getattr(meter, part), getattr(held, part)
            words = _words(
                f"{left:,} of {limit:,} left",
                f"{holds:,} held" if holds else "",
                f"room again {moment_text(standing.renews_at)}" if standing.renews_at else "",
            )
            used = f"{getattr(standing.used, part):,} {part} used"
            yield Remainder(limit_name(meter, part), left, limit, holds, words, used)


def limit_name(meter: Meter, part: str) -> str:
    """A part of a limit by its setting, and whose it is."""
    of = f"{meter.account}/{meter.offer}" if meter.offer else meter.account
    return f"Limit {limit_setting(meter, part)} of {of}"


def _words(*parts: str) -> str:
    return "; ".join(filter(None, parts))


def _block(remainder: Remainder) -> Block:
    return Block(remainder.title, [(bar(remainder.left, remainder.limit), remainder.words)])


# What is free


def free_lines(report: Report) -> list[str]:
    """What is free, what is left out of that and why, and what may be claimed."""
    lines = (_free_line(report), _not_added_line(report), _unclaimed_line(report))
    return [line for line in lines if line]


def _free_line(report: Report) -> str:
    free = report.free
    parts = [
        f"{free.once_tokens:,} given once" if free.once_tokens else "",
        f"{free.daily_tokens:,} until they renew" if free.daily_tokens else "",
        f"{free.credit_tokens:,} for {dollars_text(free.credit)} USD of credit"
        if free.credit
        else "",
    ]
    said = [f"{free.tokens:,} tokens ({', '.join(filter(None, parts))})"] if any(parts) else []
    if free.endless:
        said.append(f"whatever {', '.join(free.endless)} can take")
    return f"Free for {report.space} now: {', and '.join(said) or 'nothing'}."


def _not_added_line(report: Report) -> str:
    names = [entry.name for entry in report.claims if not entry.counts and not entry.lapsed]
    if not names:
        return ""
    return f"Not added, since no offer of this space may draw on it now: {', '.join(names)}."


def _unclaimed_line(report: Report) -> str:
    if not report.unclaimed:
        return ""
    said = ", ".join(
        f"{provider} ({grant_text(grant, note=False)})" for provider, grant in report.unclaimed
    )
    return (
        f"Not claimed: {said}. If your account has it, say so: free = true in [providers.NAME], "
        "and when it ends: free_until."
    )
