"""A hundred million and ten billion rows on paper: dollars, days, workers and bytes.

Nothing is timed here. The arithmetic is held against the real router in `tests/simulation`, the
bytes against a real Postgres in `tests/integration`, and `docs/scale.md` shows what this prints.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from typing import Any

from tests.benchmarks.measuring import say

MINUTE_SECONDS = 60.0
STEP_SECONDS = 0.5
"""The router's minute forgets by the second, so half a second late in the mean."""

DAY_SECONDS = 86_400.0
ENOUGH = 1.02
"""So many workers are enough that more of them would save no more than a fiftieth of the time."""

MOST_WORKERS = 4_096


@dataclass(frozen=True, slots=True)
class Terms:
    """What an offer takes and asks for: `texts` in a request that is answered after `seconds`, at
    `price` US dollars for a million tokens after those that are granted once. Limits are the
    account's; None where there is none."""

    name: str
    price: Decimal
    texts: int = 32
    seconds: float = 1.0
    at_once: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    granted_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Workers:
    """How many there are, and of each: rows in a call, calls under way, requests under way at an
    offer (the setting `concurrency`), and rows a second if providers answer at once. All of them
    together write no more than the database takes."""

    count: int
    batch_rows: int = 500
    in_flight: int = 4
    concurrency: int = 8
    rows_per_second: float = 5_000.0
    database_rows_per_second: float = 20_000.0

    @property
    def rows_under_way(self) -> int:
        return self.count * self.batch_rows * self.in_flight

    @property
    def most_rows_per_second(self) -> float:
        return min(self.count * self.rows_per_second, self.database_rows_per_second)


@dataclass(frozen=True, slots=True)
class Job:
    rows: int
    tokens_per_row: float

    @property
    def tokens(self) -> float:
        return self.rows * self.tokens_per_row


@dataclass(frozen=True, slots=True)
class Plan:
    """How a job goes: `rows` are by offer."""

    seconds: float
    dollars: float
    rows: Mapping[str, float]

    @property
    def days(self) -> float:
        return self.seconds / DAY_SECONDS


def texts_in_request(terms: Terms, tokens_per_row: float, batch_rows: int) -> float:
    """How many a request holds in the mean. Calls are cut into requests, and the last request of a
    call is half empty."""
    most: float = min(terms.texts, batch_rows)
    if terms.tokens_per_minute is not None:
        # What is reserved is twice the estimate, and more than a minute allows would never go.
        most = min(most, max(1.0, terms.tokens_per_minute / 2 // tokens_per_row))
    return most / (1 + most / (2 * batch_rows))


def rows_per_second(terms: Terms, tokens_per_row: float, workers: Workers) -> float:
    """What one offer takes of workers that have nothing else to wait for."""
    texts = texts_in_request(terms, tokens_per_row, workers.batch_rows)
    places = workers.count * workers.concurrency
    if terms.at_once is not None:
        places = min(places, terms.at_once)
    # A request counts against the minute until a minute after its answer.
    minute = MINUTE_SECONDS + terms.seconds + STEP_SECONDS
    limits = [places * texts / terms.seconds]
    if terms.requests_per_minute is not None:
        limits.append(terms.requests_per_minute * texts / minute)
    if terms.tokens_per_minute is not None:
        # The last request of a minute needs twice its own tokens free.
        request = texts * tokens_per_row
        limits.append(max(request, terms.tokens_per_minute - request) / tokens_per_row / minute)
    return min(limits)


def rates(offers: Sequence[Terms], tokens_per_row: float, workers: Workers) -> dict[str, float]:
    """Rows a second of offers that serve at the same time, as fast as workers and database let
    them."""
    found = {terms.name: rows_per_second(terms, tokens_per_row, workers) for terms in offers}
    under_way = sum(found[terms.name] * terms.seconds for terms in offers)
    together = sum(found.values())
    share = min(1.0, workers.rows_under_way / under_way, workers.most_rows_per_second / together)
    return {name: rate * share for name, rate in found.items()}


def plan(job: Job, offers: Sequence[Terms], workers: Workers, *, spill_to_paid: bool) -> Plan:
    """How a job goes if every offer always answers and nobody else uses the accounts.

    With `spill_to_paid` all offers serve at once. Without, those serve that cost least now: a bulk
    job waits for them rather than pay more, so that dearer offers shorten nothing.
    """
    left, seconds, dollars = float(job.rows), 0.0, 0.0
    granted = {terms.name: terms.granted_tokens / job.tokens_per_row for terms in offers}
    served = dict.fromkeys(granted, 0.0)
    while left > 0:
        tiers = {terms.name: _tier(terms, granted[terms.name]) for terms in offers}
        cheapest = min(tiers.values())
        active = [terms for terms in offers if spill_to_paid or tiers[terms.name] == cheapest]
        speeds = rates(active, job.tokens_per_row, workers)
        span = left / sum(speeds.values())
        ends = [granted[name] / rate for name, rate in speeds.items() if granted[name] > 0]
        span = min(span, *ends) if ends else span
        for terms in active:
            rows = speeds[terms.name] * span
            served[terms.name] += rows
            if granted[terms.name] > 0:
                rest = granted[terms.name] - rows
                granted[terms.name] = rest if rest > 1e-6 else 0.0
            else:
                dollars += rows * job.tokens_per_row * float(terms.price) / 1e6
        seconds += span
        left -= sum(speeds.values()) * span
        left = left if left > 1e-6 else 0.0
    return Plan(seconds, dollars, served)


def _tier(terms: Terms, granted: float) -> tuple[int, Decimal]:
    """What costs nothing, then what is given away, then by price: the router's order."""
    if terms.price == 0:
        return (0, terms.price)
    return (1, Decimal(0)) if granted > 0 else (2, terms.price)


def enough_workers(
    job: Job, offers: Sequence[Terms], workers: Workers, *, spill_to_paid: bool
) -> int:
    """The fewest workers that go about as fast as any number would."""

    def seconds(count: int) -> float:
        many = replace(workers, count=count)
        return plan(job, offers, many, spill_to_paid=spill_to_paid).seconds

    best = ENOUGH * seconds(MOST_WORKERS)
    low, high = 1, MOST_WORKERS
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if seconds(middle) <= best else (middle + 1, high)
    return low


@dataclass(frozen=True, slots=True)
class Stored:
    """Bytes of a row in a side table with a text of 800 bytes and a key of 8: the table with TOAST
    and its primary key, the WAL that a worker causes from taking the row to its vector, and each
    kind of index. Measured on 2,000 rows (Postgres 18.4, pgvector 0.8.5);
    `tests/integration/test_scale.py` measures again."""

    storage: str
    dimensions: int
    table: int
    wal: int
    index: Mapping[str, int]


STORED = (
    Stored("vector", 1024, 6_631, 6_129, {"hnsw": 8_196, "binary": 442}),
    Stored("halfvec", 1024, 3_875, 3_944, {"hnsw": 2_736, "binary": 442}),
    Stored("halfvec", 2560, 7_021, 7_155, {"hnsw": 8_196, "prefix": 2_736, "binary": 639}),
    Stored("halfvec", 4096, 9_662, 10_506, {"prefix": 2_736, "binary": 836}),
)

LOG_BYTES = 66
"""Of a row that waits in the change log, key of 8 bytes."""

BUILT = {"hnsw": (10_000, 3.9), "binary": (20_000, 5.8)}
"""Rows and seconds of an index that was built here: hnsw of vector(1024), binary of
halfvec(4096)."""


def build_hours(kind: str, rows: int) -> float:
    """Hours of a core for an index, from a small one that was built here, by n log n: a lower
    bound, which holds while all of the graph is in memory."""
    built, seconds = BUILT[kind]
    return seconds * rows / built * math.log(rows) / math.log(built) / 3600


# What the page shows

SIZES = (100_000_000, 10_000_000_000)
LENGTHS = (50, 200, 1_000)
PRICES = (Decimal(0), Decimal("0.01"), Decimal("0.05"), Decimal("0.10"))
TOKENS = 200

OFFERS = {
    "S": Terms("S", Decimal("0.05"), requests_per_minute=2_000, tokens_per_minute=500_000),
    "L": Terms("L", Decimal("0.05"), requests_per_minute=10_000, tokens_per_minute=10_000_000),
    "F": Terms("F", Decimal("0.10"), tokens_per_minute=3_600_000),
    "W": Terms("W", Decimal("0.05"), at_once=200, texts=1_024, seconds=10.0),
    "C": Terms("C", Decimal("0.01"), at_once=16),
    "G": Terms("G", Decimal(0), at_once=8, tokens_per_minute=600_000),
}
"""The kinds of offers that the page reckons with; it says where their numbers come from."""

SETS: tuple[tuple[str, Mapping[str, int], bool], ...] = (
    ("one S", {"S": 1}, False),
    ("eight S, of eight accounts", {"S": 8}, False),
    ("one L", {"L": 1}, False),
    ("eight L, of eight accounts", {"L": 8}, False),
    ("S, L, F, C, cheapest first", {"S": 1, "L": 1, "F": 1, "C": 1}, False),
    ("S, L, F, C, all at once", {"S": 1, "L": 1, "F": 1, "C": 1}, True),
    ("one W", {"W": 1}, False),
    ("32 G", {"G": 32}, False),
)


def offers_of(kinds: Mapping[str, int]) -> list[Terms]:
    return [
        replace(OFFERS[kind], name=f"{kind}{number}")
        for kind, count in kinds.items()
        for number in range(count)
    ]


def kinds_of_offers() -> Iterator[list[str]]:
    yield [
        "offer",
        "texts a request",
        "seconds a request",
        "requests at once",
        "requests a minute",
        "tokens a minute",
        "USD a million",
    ]
    for terms in OFFERS.values():
        limits = (terms.at_once, terms.requests_per_minute, terms.tokens_per_minute)
        told = ("" if limit is None else f"{limit:,}" for limit in limits)
        yield [terms.name, f"{terms.texts:,}", f"{terms.seconds:g}", *told, str(terms.price)]


def costs() -> Iterator[list[str]]:
    yield ["rows", "tokens a row", "tokens", *(f"USD at {price} a million" for price in PRICES)]
    for rows in SIZES:
        for length in LENGTHS:
            job = Job(rows, length)
            dollars = (job.tokens / 1e6 * float(price) for price in PRICES)
            yield [
                f"{rows:,}",
                f"{length:,}",
                _short(job.tokens),
                *(f"{of:,.0f}" for of in dollars),
            ]


def times() -> Iterator[list[str]]:
    yield ["offers", "rows", "rows a second", "days", "USD", "workers"]
    for rows in SIZES:
        job = Job(rows, TOKENS)
        for name, kinds, spills in SETS:
            offers = offers_of(kinds)
            count = enough_workers(job, offers, Workers(1), spill_to_paid=spills)
            found = plan(job, offers, Workers(count), spill_to_paid=spills)
            yield [
                name,
                f"{rows:,}",
                f"{rows / found.seconds:,.0f}",
                f"{found.days:,.1f}",
                f"{found.dollars:,.0f}",
                str(count),
            ]


def sizes() -> Iterator[list[str]]:
    parts = ("table", "WAL", "index")
    yield ["stored as", *parts, *(f"{_short(rows)}: {part}" for rows in SIZES for part in parts)]
    for stored in STORED:
        for kind, index in stored.index.items():
            totals = (
                _bytes(rows * each) for rows in SIZES for each in (stored.table, stored.wal, index)
            )
            yield [
                f"{stored.storage}({stored.dimensions})",
                f"{stored.table:,}",
                f"{stored.wal:,}",
                f"{kind} {index:,}",
                *totals,
            ]


def builds() -> Iterator[list[str]]:
    yield ["index", *(f"core hours for {_short(rows)}" for rows in SIZES)]
    for kind in BUILT:
        yield [kind, *(f"{build_hours(kind, rows):,.0f}" for rows in SIZES)]


def _short(number: float) -> str:
    size, name = (1e9, "billion") if number >= 1e9 else (1e6, "million")
    return f"{number / size:,.0f} {name}"


def _bytes(number: float) -> str:
    """In powers of ten, as disks are sold."""
    return f"{number / 1e12:,.1f} TB" if number >= 1e12 else f"{number / 1e9:,.0f} GB"


def table(rows: Iterator[list[str]]) -> list[str]:
    """As Markdown, so that a page can hold what is printed."""
    head, *rest = rows
    lines = [f"| {' | '.join(row)} |" for row in (head, *rest)]
    return [lines[0], "|---" * len(head) + "|", *lines[1:]]


TABLES = {
    "cost": costs,
    "offers": kinds_of_offers,
    "time": times,
    "bytes": sizes,
    "index builds": builds,
}


def run() -> list[dict[str, Any]]:
    records = []
    for title, rows in TABLES.items():
        say("\n".join([title, "", *table(rows()), ""]))
        records.append({"title": f"scale: {title}", "rows": list(rows())})
    return [*records, {"title": "scale: stored", "rows": [asdict(each) for each in STORED]}]
