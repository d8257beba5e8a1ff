"""What `route` predicts is what then happens: the same settings, texts and state, over real HTTP.

Where two offers are equal and answer at random moments, their order of first use is promised, and
what all together use; not which of them gets how much.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from qwen_embed_plugins import BudgetExceeded, Embedder, NoOfferLeft, Settings, hookimpl
from qwen_embed_plugins.events import AttemptFinished, Event
from qwen_embed_plugins.ledger import Reservation, Use
from qwen_embed_plugins.plugins import load_plugins
from qwen_embed_plugins.provider import prefixed
from qwen_embed_plugins.rehearsal import Rehearsal, Workload, cost_range, prefix_tokens, rehearse
from qwen_embed_plugins.setup import Setup
from qwen_embed_plugins.shared_ledger import SharedLedger
from qwen_embed_plugins.testing import Behaviour, SimulatedServer, reference_tokens
from qwen_embed_plugins.tokens import estimate_tokens
from qwen_embed_plugins.types import Role

ENGLISH = "The night train to the coast leaves at nine and stops in every small town on its way. "
RUSSIAN = "Ночной поезд к морю отправляется в девять и останавливается в каждом городке. "
CHINESE = "开往海边的夜车九点发车，沿途每个小镇都停。"
CODE = "def total(rows: list[Row]) -> int:\n    return sum(row.amount for row in rows if row)\n"


LETTERS = str.maketrans("0123456789", "abcdefghij")
"""Digits count for more in an estimate than for the simulated servers."""


def texts_of(sentence: str, count: int, repeat: int = 3) -> list[str]:
    numbers = (str(number).translate(LETTERS) for number in range(1000, 1000 + count))
    return [f"{number}: {sentence * repeat}" for number in numbers]


@dataclass
class Done:
    """What the real job used, by offer in the order of first use."""

    order: list[str]
    texts: dict[str, int]
    tokens: dict[str, int]
    requests: dict[str, int]
    cost: dict[str, Decimal]
    served: int

    @property
    def total(self) -> Decimal:
        return sum(self.cost.values(), Decimal(0))


@dataclass
class World:
    """Servers by name, and settings that reach them alone."""

    state: Path
    servers: dict[str, SimulatedServer] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)

    def settings(self) -> Settings:
        return Settings.load(model="qwen3-embedding-0.6b", state=str(self.state), **self.arguments)

    def rehearsed(self, texts: Sequence[str], role: Role = "document") -> Rehearsal:
        """By the tokens that the servers count for all texts together."""
        setup = Setup.make(self.settings(), None)
        sent = prefixed(texts, role, setup.settings.instruction, setup.catalogue.model)
        workload = Workload.of(texts, prefix_tokens(setup, role))
        workload = workload.counted(sum(map(reference_tokens, sent)))
        return rehearse(setup, workload, role, time.time())

    def cost_range(self, texts: Sequence[str]) -> tuple[Decimal, Decimal]:
        """The least and the most it costs, by estimate."""
        setup = Setup.make(self.settings(), None)
        *_, low, high = cost_range(setup, Workload.of(texts), "document", time.time())
        return low, high

    def done(self, texts: Sequence[str], role: Role = "document") -> Done:
        events, order = Events(), list[str]()
        registry = load_plugins(extra={"events of this test": events})
        offers: Sequence[str | None] = ()
        # Requests that begin together arrive in any order; they are reserved in that of their use.
        with pytest.MonkeyPatch.context() as patch:
            real = SharedLedger.reserve

            def noting(ledger: SharedLedger, use: Use) -> Reservation | None:
                reservation = real(ledger, use)
                if reservation is not None:
                    order.append(use.offer.partition("/")[0])
                return reservation

            patch.setattr(SharedLedger, "reserve", noting)
            with (
                Embedder(self.settings(), registry=registry) as embedder,
                suppress(NoOfferLeft, BudgetExceeded),
            ):
                offers = embedder.embed(texts, role).offers
        done = Done(list(dict.fromkeys(order)), {}, {}, {}, {}, 0)
        for event in events.attempts:
            name = event.offer.partition("/")[0]
            done.tokens[name] = done.tokens.get(name, 0) + event.tokens
            done.requests[name] = done.requests.get(name, 0) + 1
            done.cost[name] = done.cost.get(name, Decimal(0)) + event.cost
        for offer in offers:
            if offer is not None:
                name = offer.partition("/")[0]
                done.texts[name] = done.texts.get(name, 0) + 1
        done.served = sum(done.texts.values())
        return done


class Events:
    """All events, as an observer gets them."""

    def __init__(self) -> None:
        self.all: list[Event] = []

    @hookimpl
    def observe(self, event: Event) -> None:
        self.all.append(event)

    @property
    def attempts(self) -> list[AttemptFinished]:
        return [event for event in self.all if isinstance(event, AttemptFinished)]


@pytest.fixture
def servers() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def world(
    servers: ExitStack, tmp_path: Path, tables: Mapping[str, Mapping[str, Any]], **arguments: Any
) -> World:
    made = World(tmp_path / "state.db")
    providers = {}
    for name, table in tables.items():
        server = made.servers[name] = servers.enter_context(
            SimulatedServer(Behaviour(), native=1024)
        )
        kind = {"kind": "openai-compatible", "base_url": f"{server.url}/v1"}
        providers[name] = {**kind, "trust": True, **table}
    made.arguments = {"use": list(tables), "providers": providers, **arguments}
    return made


def by_name(rehearsal: Rehearsal, what: str) -> dict[str, Any]:
    return {share.offer.partition("/")[0]: getattr(share, what) for share in rehearsal.shares}


def check(rehearsal: Rehearsal, done: Done, *, shares: bool = True) -> None:
    """Offers and order exactly, money within 1 %; a budget or a grant may end one text sooner or
    later, since on paper texts have their estimated parts of all tokens."""
    grain = float(rehearsal.grain) + 1e-9
    assert list(by_name(rehearsal, "texts")) == done.order
    assert rehearsal.served == pytest.approx(done.served, abs=1)
    assert float(rehearsal.cost) == pytest.approx(float(done.total), rel=0.01, abs=grain)
    assert rehearsal.tokens == pytest.approx(sum(done.tokens.values()), rel=0.01)
    if shares:
        texts = {name: count for name, count in by_name(rehearsal, "texts").items() if count}
        assert texts == pytest.approx(done.texts, rel=0.02, abs=1)
        assert by_name(rehearsal, "requests") == pytest.approx(done.requests, rel=0.02, abs=1)
        for name, cost in by_name(rehearsal, "cost").items():
            assert float(cost) == pytest.approx(float(done.cost[name]), rel=0.01, abs=grain)


PAID = {"price_per_million": "0.05"}
DEAR = {"price_per_million": "0.50"}
ONE = {"max_concurrency": 1}

SETTINGS: dict[str, tuple[dict[str, dict[str, Any]], dict[str, Any]]] = {
    "one free server": ({"near": {}}, {}),
    "grants with different ends": (
        {
            "late": {**DEAR, "free_tokens": 4_000, "free_until": "2099-12-31", **ONE},
            "soon": {**PAID, "free_tokens": 3_000, "free_until": "2098-12-31", **ONE},
        },
        {},
    ),
    "a grant, then paid": ({"given": {**PAID, "free_tokens": 5_000, **ONE}}, {}),
    "a credit in money": (
        {"given": {**DEAR, "free_usd": "0.003", **ONE}, "paid": {**PAID, **ONE}},
        {},
    ),
    "a daily grant": (
        {"daily": {**DEAR, "free_tokens_per_day": 4_000, **ONE}, "paid": {**PAID, **ONE}},
        {},
    ),
    "cheapest": ({"dear": DEAR, "cheap": PAID}, {"policy": "cheapest"}),
    "ordered": ({"dear": DEAR, "cheap": PAID}, {"policy": "ordered"}),
    "serve": ({"near": {"serve": ["query"]}, "paid": PAID}, {}),
    "a budget that ends in the middle": (
        {"paid": {**DEAR, **ONE}},
        {"budget": {"usd_per_day": "0.004"}},
    ),
    "a budget of one provider": (
        {"paid": {**PAID, "usd_total": "0.0004", **ONE}, "dear": {**DEAR, **ONE}},
        {},
    ),
    "requests of a day": (
        {"few": {"requests_per_day": 2, "max_inputs": 10, **ONE}, "paid": {**PAID, **ONE}},
        {},
    ),
    "a minute spills to what is free": (
        {"few": {"requests_per_minute": 2, "max_inputs": 10, **ONE}, "near": {**ONE}},
        {},
    ),
    "a minute spills to what is paid": (
        {"few": {"requests_per_minute": 2, "max_inputs": 10, **ONE}, "paid": {**PAID, **ONE}},
        {"spill_to_paid": True},
    ),
    "introductions": ({"dear": {**DEAR, "trust": False}, "cheap": {**PAID, "trust": False}}, {}),
    "the second one is introduced in the middle": (
        {
            "given": {**DEAR, "free_tokens": 6_000, "trust": False, **ONE},
            "paid": {**PAID, "trust": False, **ONE},
        },
        {},
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("sentence", [ENGLISH, RUSSIAN], ids=["English", "Russian"])
def test_what_is_predicted_happens(
    name: str, sentence: str, servers: ExitStack, tmp_path: Path
) -> None:
    tables, arguments = SETTINGS[name]
    made = world(servers, tmp_path, tables, **arguments)
    texts = texts_of(sentence, 160)
    rehearsal = made.rehearsed(texts)
    low, high = made.cost_range(texts)
    done = made.done(texts)
    check(rehearsal, done)
    assert low <= done.total <= high


@pytest.mark.parametrize("sentence", [ENGLISH, RUSSIAN, CHINESE, CODE])
def test_the_printed_interval_contains_what_is_paid(
    sentence: str, servers: ExitStack, tmp_path: Path
) -> None:
    """Also where servers count as Qwen's tokenizer is furthest from the estimate."""
    made = world(servers, tmp_path, {"paid": PAID})
    texts = texts_of(sentence, 50)
    low, high = made.cost_range(texts)
    estimate = sum(map(estimate_tokens, texts))
    for truth in (estimate / 1.47, estimate, estimate / 0.68):
        each = round(truth / 2)
        for server in made.servers.values():
            server.behave(reported_tokens=each)
        # Two requests of 25 texts each.
        made.arguments["providers"]["paid"]["max_inputs"] = 25
        done = made.done(texts)
        assert low <= done.total <= high
        assert done.total == pytest.approx(Decimal(2 * each) * Decimal("0.05") / 10**6)


def test_queries_count_their_instruction(servers: ExitStack, tmp_path: Path) -> None:
    made = world(servers, tmp_path, {"documents": {**PAID, "serve": ["document"]}, "all": DEAR})
    texts = texts_of(CHINESE, 20, 1)
    rehearsal = made.rehearsed(texts, "query")
    check(rehearsal, made.done(texts, "query"))
    assert list(by_name(rehearsal, "texts")) == ["all"]


def test_an_unproven_offer_has_no_share(servers: ExitStack, tmp_path: Path) -> None:
    made = world(servers, tmp_path, {"near": {}, "paid": PAID})
    made.arguments["providers"]["dashscope-singapore"] = {
        "base_url": f"{made.servers['near'].url}/api/v1"
    }
    made.arguments["use"].insert(0, "dashscope-singapore")
    made.arguments["api_keys"] = {"dashscope-singapore": "a-made-up-key"}
    made.arguments["dimensions"] = 1024
    rehearsal = made.rehearsed(texts_of(ENGLISH, 40))
    check(rehearsal, made.done(texts_of(ENGLISH, 40)))
    assert "unproven" in rehearsal.reasons["dashscope-singapore/qwen3-embedding-0.6b"]


def test_two_equal_servers_are_both_used_in_order(servers: ExitStack, tmp_path: Path) -> None:
    made = world(servers, tmp_path, {"one": ONE, "two": ONE})
    texts = texts_of(ENGLISH, 400)
    rehearsal, done = made.rehearsed(texts), made.done(texts)
    check(rehearsal, done, shares=False)
    assert list(by_name(rehearsal, "texts")) == ["one", "two"]
    assert sum(by_name(rehearsal, "texts").values()) == 400


def test_it_begins_where_the_books_stand(servers: ExitStack, tmp_path: Path) -> None:
    """What was used of a grant is gone, and who was met is not met again."""
    given = {**DEAR, "free_tokens": 12_000, "trust": False, **ONE}
    made = world(servers, tmp_path, {"given": given, "paid": {**PAID, "trust": False, **ONE}})
    texts = texts_of(ENGLISH, 300)
    made.done(texts[:100])
    first = made.rehearsed(texts[100:])
    before = {name: len(server.requests) for name, server in made.servers.items()}
    done = made.done(texts[100:])
    assert float(first.cost) == pytest.approx(float(done.total), rel=0.01)
    assert by_name(first, "requests") == pytest.approx(done.requests, abs=1)
    assert by_name(first, "own_tokens")["given"] == 0
    assert len(made.servers["given"].requests) - before["given"] == done.requests["given"]


def test_a_rehearsal_changes_nothing(
    servers: ExitStack, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = {**DEAR, "free_tokens": 5_000, "requests_per_minute": 30, "trust": False}
    made = world(servers, tmp_path, {"given": given, "paid": {**PAID, "trust": False}})
    made.done(texts_of(ENGLISH, 40))
    requests = {name: len(server.requests) for name, server in made.servers.items()}
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert made.state in files
    caplog.set_level(logging.DEBUG)
    caplog.clear()
    events = Events()
    setup = Setup.make(made.settings(), load_plugins(extra={"listener": events}))
    for count in (200, 200_000):
        rehearsed = rehearse(setup, Workload(count, count * 100), "document", time.time())
        assert rehearsed.served
    assert events.all == []
    assert caplog.records == []
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files
    assert {name: len(server.requests) for name, server in made.servers.items()} == requests


def test_nothing_is_made_where_nothing_was(servers: ExitStack, tmp_path: Path) -> None:
    made = world(servers, tmp_path, {"one": {"trust": False}, "two": {"trust": False}})
    rehearsal = made.rehearsed(texts_of(ENGLISH, 400))
    assert {share.own_tokens > 0 for share in rehearsal.shares} == {True}
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_who_gave_other_vectors_stays_out(servers: ExitStack, tmp_path: Path) -> None:
    """On paper vectors have two numbers: what the real ones said stands."""
    tables: dict[str, dict[str, Any]] = {
        "first": {**PAID, **ONE, "trust": False},
        "other": {**ONE, "trust": False},
    }
    made = world(servers, tmp_path, tables, policy="ordered")
    made.servers["other"].behave(seed=5)
    made.done(texts_of(ENGLISH, 300))
    rehearsal = made.rehearsed(texts_of(RUSSIAN, 300))
    assert "not those of first" in rehearsal.reasons["other/qwen3-embedding-0.6b"]
    assert list(by_name(rehearsal, "texts")) == ["first"]
    check(rehearsal, made.done(texts_of(RUSSIAN, 300)))


def test_a_limit_used_up_a_moment_ago_is_heeded(servers: ExitStack, tmp_path: Path) -> None:
    few = {"requests_per_day": 3, "max_inputs": 10, **ONE}
    made = world(servers, tmp_path, {"few": few, "paid": {**PAID, **ONE}})
    made.done(texts_of(ENGLISH, 20))
    rehearsal = made.rehearsed(texts_of(RUSSIAN, 60))
    assert by_name(rehearsal, "texts") == {"few": 10, "paid": 50}
    check(rehearsal, made.done(texts_of(RUSSIAN, 60)))
