"""The router under random offers, faults and texts: whatever happens, the laws hold.

Everything follows from the integer that hypothesis draws, so a failing example replays exactly.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from random import Random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_embed_plugins.call import KNOWN_GOOD
from qwen_embed_plugins.canary import Canaries
from qwen_embed_plugins.catalogue import Catalogue, ConfiguredOffer
from qwen_embed_plugins.effects import Job
from qwen_embed_plugins.errors import BudgetExceeded, NoOfferLeft
from qwen_embed_plugins.health import Health
from qwen_embed_plugins.ledger import MemoryLedger
from qwen_embed_plugins.models import Model
from qwen_embed_plugins.offers import Offer
from qwen_embed_plugins.parity import PROBES, Parity
from qwen_embed_plugins.provider import Provider, ProviderConfig
from qwen_embed_plugins.reading import BEYOND, LENGTHS, WITHIN, pair
from qwen_embed_plugins.router import EmbedRequest, Router
from qwen_embed_plugins.routing import free_first
from qwen_embed_plugins.settings import Budget
from qwen_embed_plugins.spaces import EmbeddingSpace, shorten
from qwen_embed_plugins.testing import reference_tokens, reference_vector
from qwen_embed_plugins.testing.simulation import Served, SimulatedClock, SimulatedDriver
from qwen_embed_plugins.types import Answer, EmbedResult, Fault, FaultKind, Role

MODEL = Model("toy", dimensions=48, context_tokens=100, min_dimensions=8)
KINDS: tuple[FaultKind, ...] = (
    "rate_limited",
    "quota_spent",
    "bad_key",
    "bad_offer",
    "too_large",
    "bad_input",
    "bad_vector",
    "unavailable",
)
READINGS = {
    text
    for limit in (2, 100)
    for step in (*LENGTHS, int(limit * WITHIN), int(limit * BEYOND))
    for text in pair(step)
}


class ReadsAll(Provider):
    never_cuts = True


@dataclass
class Server:
    """A server with a temper: how often it fails, and which texts it can never take."""

    random: Random
    temper: float
    hates: frozenset[str]
    cap: int
    space: int = 0
    served: Counter[str] = field(default_factory=Counter)

    def respond(self, job: Job) -> Served:
        texts = job.batch.texts
        seconds = self.random.uniform(0.01, 3)
        if len(texts) > self.cap:
            limit = self.cap if self.random.random() < 0.5 else None
            return Served(Fault("too_large", "too many", limit=limit), seconds)
        if self.hates & set(texts):
            return Served(Fault("bad_input", "a hated text"), seconds)
        if self.random.random() < self.temper:
            return self._misbehave(texts, seconds)
        return Served(self._right(texts), seconds)

    def _right(self, texts: object) -> Answer:
        rows = [reference_vector(text, 48, seed=self.space) for text in list(texts)]  # type: ignore[call-overload]
        return Answer(np.stack(rows), tokens=len(rows))

    def _misbehave(self, texts: object, seconds: float) -> Served:
        right = self._right(texts)
        choice = self.random.randrange(6)
        matrix = np.array(right.vectors)
        if choice == 0:
            matrix[self.random.randrange(len(matrix))] = self.random.choice([np.nan, np.inf, 0.0])
            return Served(Answer(matrix, tokens=1), seconds)
        if choice == 1:
            return Served(Answer(matrix[:-1], tokens=1), seconds)
        if choice == 2:
            return Served(Answer(matrix[:, :-1], tokens=1), seconds)
        kind = self.random.choice(KINDS)
        scope = "account" if kind in ("bad_key", "quota_spent") else "offer"
        after = self.random.choice([None, 0.0, 1.0, 120.0])
        fault = Fault(kind, f"made up {kind}", scope, retry_after_seconds=after)  # type: ignore[arg-type]
        return Served(fault, seconds, maybe_served=self.random.random() < 0.1)


@dataclass
class World:
    driver: SimulatedDriver
    router: Router
    ledger: MemoryLedger
    servers: dict[str, Server]
    asked: frozenset[str]


def build(random: Random, texts: list[str], spaces: tuple[int, ...] = (0,)) -> World:
    clock = SimulatedClock()
    servers: dict[str, Server] = {}
    offers = []
    everywhere = frozenset(text for text in texts if random.random() < 0.03)
    for number in range(random.randrange(1, 4)):
        name = f"server{number}"
        hates = everywhere | {text for text in texts if random.random() < 0.02}
        temper = random.choice([0.0, 0.05, 0.3, 0.9])
        cap, space = random.randrange(1, 12), random.choice(spaces)
        servers[name] = Server(random, temper, frozenset(hates), cap, space)
        terms = Offer(
            "toy",
            "toy",
            max_inputs=random.choice([None, 1, 3, 10]),
            max_input_tokens=random.choice([None, 2, 100]),
            max_batch_tokens=random.choice([None, 5, 50]),
            max_concurrency=random.choice([None, 1, 2]),
        )
        price = Decimal(random.choice([0, 0, 1]))
        provider = random.choice([Provider, ReadsAll])(ProviderConfig(name))
        offers.append(
            ConfiguredOffer(f"{name}/toy", provider, name, terms, MODEL, price, price == 0)
        )
    budget = Budget(random.choice([None, Decimal("0.0001"), Decimal(0)]))
    ledger = MemoryLedger(budget, clock)
    driver = SimulatedDriver(lambda job: servers[job.offer.account].respond(job), ledger, clock)
    router = Router(
        Catalogue(MODEL, tuple(offers), {}),
        free_first,
        free_first,
        Health(random),
        {},
        clock,
        lambda event: None,
        Parity(offers),
        Canaries(random.choice([1, 2, 5, 500])),
        concurrency=random.choice([1, 3, 8]),
        spill_to_paid=random.random() < 0.5,
    )
    return World(driver, router, ledger, servers, frozenset(texts))


def run(world: World, request: EmbedRequest) -> EmbedResult | NoOfferLeft | BudgetExceeded:
    try:
        return world.driver.run(lambda wake: world.router.flow(request, wake))
    except (NoOfferLeft, BudgetExceeded) as error:
        return error


def check(world: World, texts: list[str], dimensions: int, result: EmbedResult) -> None:
    native = np.stack([reference_vector(text, 48) for text in texts])
    right = shorten(native, dimensions)
    failed = {error.position: error for error in result.errors}
    for place, text in enumerate(texts):
        if place in failed:
            assert np.isnan(result.vectors[place]).all()
            assert result.offers[place] is None
            continue
        assert np.allclose(result.vectors[place], right[place], atol=1e-5), text
        server = world.servers[str(result.offers[place]).split("/")[0]]
        assert text not in server.hates


@settings(max_examples=400)
@given(seed=st.integers(0, 2**32), role=st.sampled_from(["document", "query"]))
def test_every_text_gets_its_right_vector_or_an_error_of_its_own(seed: int, role: Role) -> None:
    random = Random(seed)
    texts = [
        f"text {number} " + "x" * random.randrange(40) for number in range(random.randrange(1, 60))
    ]
    dimensions = random.choice([48, 8, 17])
    world = build(random, texts)
    request = EmbedRequest(tuple(texts), role, EmbeddingSpace("toy", dimensions))
    for _ in range(2):  # the second call meets the pauses of the first
        result = run(world, request)
        if isinstance(result, NoOfferLeft):
            assert set(result.reasons) == {f"{name}/toy" for name in world.servers}
        elif isinstance(result, EmbedResult):
            check(world, texts, dimensions, result)
    assert world.ledger.reserved == 0
    assert world.router.places.taken() == {}
    sent = {text for job in world.driver.jobs for text in job.batch.texts}
    assert sent <= world.asked | {KNOWN_GOOD, *PROBES} | READINGS


@settings(max_examples=200)
@given(seed=st.integers(0, 2**32))
def test_with_servers_that_keep_their_temper_exactly_the_hated_texts_fail(seed: int) -> None:
    random = Random(seed)
    texts = [f"text {number}" for number in range(random.randrange(1, 80))]
    world = build(random, texts)
    for server in world.servers.values():
        server.temper = 0.0
    prices = {offer.price for offer in world.router.catalogue.offers}
    if prices != {Decimal(0)}:
        return  # a budget would come between
    hated = frozenset.intersection(*(server.hates for server in world.servers.values()))
    request = EmbedRequest(tuple(texts), "document", EmbeddingSpace("toy", 48))
    result = world.driver.run(lambda wake: world.router.flow(request, wake))
    assert {texts[error.position] for error in result.errors} == hated
    assert {error.kind for error in result.errors} <= {"bad_input"}


@settings(max_examples=200)
@given(seed=st.integers(0, 2**32))
def test_no_two_spaces_ever_meet(seed: int) -> None:
    random = Random(seed)
    texts = [f"text {number}" for number in range(random.randrange(1, 40))]
    world = build(random, texts, spaces=(0, 0, 1, 2))
    request = EmbedRequest(tuple(texts), "document", EmbeddingSpace("toy", 48))
    served = set()
    for _ in range(4):
        result = run(world, request)
        if isinstance(result, EmbedResult):
            served |= {str(key).split("/")[0] for key in result.offers if key is not None}
        world.driver.clock.seconds += 100
    assert len({world.servers[name].space for name in served}) <= 1


LONG = Model("toy", dimensions=48, context_tokens=32_768, min_dimensions=8)


@dataclass
class Cutter:
    """A server that reads so many tokens and, unlike its neighbour, says nothing of the rest."""

    random: Random
    reads: int
    refuses: bool
    counts: bool

    def respond(self, job: Job) -> Served:
        texts = [self._part(text) for text in job.batch.texts]
        if self.refuses and texts != list(job.batch.texts):
            return Served(Fault("too_large", "the input length exceeds the context"))
        rows = np.stack([reference_vector(text, 48) for text in texts])
        tokens = sum(map(reference_tokens, texts)) if self.counts else None
        return Served(Answer(rows, tokens), self.random.uniform(0.01, 3))

    def _part(self, text: str) -> str:
        return text[: (self.reads - 1) * 4] if reference_tokens(text) > self.reads else text


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_nothing_is_cut_in_silence(seed: int) -> None:
    random = Random(seed)
    sizes = [random.choice([5, 300, 900, 3_000, 12_000, 40_000]) for _ in range(12)]
    texts = [f"{number} " + "word " * random.randrange(size) for number, size in enumerate(sizes)]
    servers: dict[str, Cutter] = {}
    offers = []
    for number in range(random.randrange(1, 4)):
        name = f"server{number}"
        reads = random.choice([512, 2_048, 8_192, 32_768])
        servers[name] = Cutter(random, reads, random.random() < 0.4, random.random() < 0.5)
        states_it = random.random() < 0.5
        terms = Offer("toy", "toy", max_inputs=10, max_input_tokens=reads if states_it else None)
        provider = Provider(ProviderConfig(name))
        offers.append(ConfiguredOffer(f"{name}/toy", provider, name, terms, LONG, Decimal(0), True))
    clock = SimulatedClock()
    router = Router(
        Catalogue(LONG, tuple(offers), {}),
        free_first,
        free_first,
        Health(random),
        {},
        clock,
        lambda event: None,
        Parity(offers),
        Canaries(500),
    )
    driver = SimulatedDriver(
        lambda job: servers[job.offer.account].respond(job), MemoryLedger(Budget(), clock), clock
    )
    request = EmbedRequest(tuple(texts), "document", EmbeddingSpace("toy", 48))
    try:
        result = driver.run(lambda wake: router.flow(request, wake))
    except NoOfferLeft:
        return
    failed = {error.position for error in result.errors}
    for place, text in enumerate(texts):
        if place not in failed:
            whole = reference_vector(text, 48)
            assert float(result.vectors[place] @ whole) > 0.99, (len(text), result.offers[place])
    # Nor is anything refused that a reader of all its texts would take.
    if any(server.reads == 32_768 for server in servers.values()):
        assert all(reference_tokens(texts[place]) > 10_000 for place in failed)
