"""The page of `qwen-embed usage`: what is left, what was used by day, what ends when. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, timedelta
from typing import NamedTuple

from qwen_embed_plugins.amounts import NOTHING, UNITS_PER_USD, Amount
from qwen_embed_plugins.cli.amounts import exact_usd, moment_text, spent_text
from qwen_embed_plugins.cli.database import age_text
from qwen_embed_plugins.cli.html_charts import (
    Bar,
    columns_chart,
    figure,
    left_bar,
    legend,
    share_bar,
    short,
)
from qwen_embed_plugins.cli.html_page import Html, Tile, element, joined, page, table, tiles
from qwen_embed_plugins.cli.usage_report import PARTS, OfferUse, Report
from qwen_embed_plugins.cli.usage_text import (
    NOTHING_YET,
    Remainder,
    budget_name,
    free_lines,
    grants_and_budgets,
    is_used_up,
    limit_name,
    limit_remainders,
    use_name,
)
from qwen_embed_plugins.standing import Standing
from qwen_embed_plugins.windows import EPOCH

FEWEST_DAYS, MOST_DAYS = 14, 60
"""Of a chart, if nothing else is asked for: two weeks show a rhythm, and more columns than that
cannot be told apart on a phone."""

LEGEND = (
    ("fill-left", "left"),
    ("fill-low", "left, less than a fifth"),
    ("fill-held", "held, under way or in advance"),
    ("fill-used", "used"),
    ("edge-bad", "nothing left"),
)


def usage_page(kind: str, report: Report) -> str:
    """The whole page that the command `kind` writes."""
    since = f", used since {report.since}" if report.since else ""
    return page(
        kind,
        "Usage of embeddings",
        report.now,
        element("p", f"Space {report.space}{since}", class_="faint"),
        element("p", NOTHING_YET, class_="note") if report.is_empty else None,
        tiles(_tiles(report)),
        *_left(report),
        *_by_day(report),
        *_by_provider(report),
        *_endings(report),
    )


def _tiles(report: Report) -> Iterator[Tile]:
    tokens = sum(entry.used.tokens for entry in report.offers)
    requests = sum(entry.used.requests for entry in report.offers)
    held = f"{_money(report.held)} more held" if report.held else ""
    yield Tile("Spent today", _money(report.spent_today))
    yield Tile("Spent in total", _money(report.spent), held)
    yield Tile("Tokens used", figure(tokens), f"in {figure(requests)} requests")
    free = report.free
    if free.endless:
        besides = f"and {figure(free.tokens)} of grants" if free.tokens else ""
        yield Tile("Free tokens now", "without end", besides)
    else:
        yield Tile("Free tokens now", figure(free.tokens))


def _money(units: int) -> str:
    dollars = units / UNITS_PER_USD
    return f"{short(dollars) if dollars >= 10_000 else spent_text(units)} USD"


# What is left


def _left(report: Report) -> Iterator[Html]:
    used_up = [standing for standing in report.limits if is_used_up(standing)]
    others = [standing for standing in report.limits if not is_used_up(standing)]
    shown = [*grants_and_budgets(report), *limit_remainders(used_up)]
    yield element("h2", "Left of grants and budgets")
    if shown:
        yield legend(LEGEND)
        yield element("div", *map(_remainder_bar, shown), class_="bars")
    else:
        yield element("p", "No grant is claimed, and no budget is set.")
    if others:
        roomy = [_remainder_bar(remainder) for remainder in limit_remainders(others)]
        summary = element("summary", f"Limits with room ({len(roomy)})")
        yield element("details", summary, element("div", *roomy, class_="bars"))
    yield joined(element("p", line) for line in free_lines(report))


def _remainder_bar(remainder: Remainder) -> Html:
    words = f"{remainder.words}; {remainder.used}"
    return left_bar(
        remainder.title, words, left=remainder.left, held=remainder.held, limit=remainder.limit
    )


# By day


def _by_day(report: Report) -> Iterator[Html]:
    if report.is_empty:
        return
    used = used_by_day(report)
    days, are_all = charted_days(used, report)
    of = {day: used.get(day, NOTHING) for day in days}
    money = [
        _bar(day, amount.money, f"{spent_text(amount.money)} USD") for day, amount in of.items()
    ]
    tokens = [_bar(day, amount.tokens, f"{amount.tokens:,} tokens") for day, amount in of.items()]
    yield element("h2", "By day")
    if not are_all:
        said = f"The last {len(days)} days; there was use before them, of which --json tells."
        yield element("p", said, class_="faint")
    spending = (
        columns_chart("Spent a day, in USD", money, _dollars)
        if any(bar.value for bar in money)
        else element("p", f"Nothing was spent from {days[0]} to {days[-1]}.")
    )
    yield element("div", spending, columns_chart("Tokens a day", tokens, short), class_="charts")


def _bar(day: date, value: int, words: str) -> Bar:
    return Bar(day.isoformat(), value, words)


def _dollars(units: float) -> str:
    dollars = units / UNITS_PER_USD
    return short(dollars) if dollars >= 1 else exact_usd(round(units))


def used_by_day(report: Report) -> Mapping[date, Amount]:
    """What all offers together were used for, on each day that has anything."""
    found: dict[date, Amount] = {}
    for entry in report.days:
        found[entry.day] = found.get(entry.day, NOTHING) + entry.used
    return found


def charted_days(used: Iterable[date], report: Report) -> tuple[list[date], bool]:
    """The days of a chart, those without use included, and whether they are all with any."""
    today = EPOCH + timedelta(days=int(report.now // 86_400))
    last = max((today, report.since or today, *used))
    first = report.since or min((last - timedelta(days=FEWEST_DAYS - 1), *used))
    begin = max(first, last - timedelta(days=MOST_DAYS - 1))
    days = [begin + timedelta(days=number) for number in range((last - begin).days + 1)]
    return days, min(used, default=begin) >= begin


# By provider


def _by_provider(report: Report) -> Iterator[Html]:
    if not report.offers:
        return
    tokens = tokens_by_provider(report.offers)
    most = max(tokens.values())
    yield element("h2", "By provider")
    bars = [
        share_bar(name, f"{count:,} tokens", part=count, whole=most)
        for name, count in tokens.most_common()
    ]
    yield element("div", *bars, class_="bars")
    yield element("h3", "Offers")
    titles = ("Offer", "Requests", "Tokens", "USD", "Tokens held")
    yield table(titles, [_offer_row(entry) for entry in report.offers], (1, 2, 3, 4))
    if not all(entry.configured for entry in report.offers):
        yield element("p", "*: not set up any more", class_="faint")


def tokens_by_provider(offers: Iterable[OfferUse]) -> Counter[str]:
    """Tokens of all offers of a provider, by its name."""
    found: Counter[str] = Counter()
    for entry in offers:
        found[entry.offer.partition("/")[0]] += entry.used.tokens
    return found


def _offer_row(entry: OfferUse) -> tuple[str, ...]:
    used, held = entry.used, entry.held.tokens
    return (
        use_name(entry),
        f"{used.requests:,}",
        f"{used.tokens:,}",
        spent_text(used.money),
        f"{held:,}" if held else "",
    )


# What ends when


class Ending(NamedTuple):
    """Something changes at a moment (seconds since the epoch)."""

    at: float
    what: str
    event: str


def _endings(report: Report) -> Iterator[Html]:
    yield element("h2", "When grants lapse and limits renew")
    found = sorted(endings(report))
    if not found:
        yield element("p", "Nothing lapses or renews.")
        return
    rows = [
        (f"{what} {event}", moment_text(at), _ahead(at - report.now)) for at, what, event in found
    ]
    yield table(("What", "When", "In"), rows, (2,))


def _ahead(seconds: float) -> str:
    return age_text(timedelta(seconds=seconds)) if seconds > 0 else "past"


def endings(report: Report) -> Iterator[Ending]:
    """All that lapses or renews, in no order."""
    for entry in report.claims:
        name, until = f"Grant {entry.name}", entry.claim.grant.until
        if until is not None:
            yield Ending(until, name, "has lapsed" if entry.lapsed else "lapses")
        yield from _renewals(entry.standing, name)
    for standing in report.budgets:
        yield from _renewals(standing, budget_name(standing.meter))
    for standing in filter(is_used_up, report.limits):
        for part, left in zip(PARTS, standing.left, strict=False):
            if left == 0:
                yield from _renewals(standing, limit_name(standing.meter, part), "has room again")


def _renewals(standing: Standing, name: str, event: str = "renews") -> Iterator[Ending]:
    if standing.renews_at is not None:
        yield Ending(standing.renews_at, name, event)
