"""One large job: workers with a router each share a ledger and offers that all go well, and each
begins its next call where one ends, as a worker does with its batches of rows."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import islice
from random import Random

from qwen_embed_plugins.canary import Canaries
from qwen_embed_plugins.catalogue import Catalogue, ConfiguredOffer
from qwen_embed_plugins.errors import QwenEmbedError
from qwen_embed_plugins.grants import ConfiguredGrant
from qwen_embed_plugins.health import Health
from qwen_embed_plugins.ledger import MemoryLedger
from qwen_embed_plugins.meters import Meter
from qwen_embed_plugins.offers import Offer
from qwen_embed_plugins.parity import Parity
from qwen_embed_plugins.provider import ProviderConfig
from qwen_embed_plugins.router import EmbedRequest, Router
from qwen_embed_plugins.routing import free_first
from qwen_embed_plugins.settings import Budget
from qwen_embed_plugins.spaces import EmbeddingSpace
from qwen_embed_plugins.tariffs import Tariffs
from qwen_embed_plugins.testing.simulation import SimulatedClock
from qwen_embed_plugins.types import EmbedResult
from qwen_embed_plugins.windows import MINUTE, Ever, UnderWay
from tests.benchmarks.scale import Terms, Workers
from tests.simulation.schedules import MORNING, SECRET, Simulated
from tests.simulation.servers import DIMENSIONS, MODEL, Account, ReadsAll, Server
from tests.simulation.world import Call, Process, World

SPACE = EmbeddingSpace(MODEL.name, DIMENSIONS)


@dataclass(slots=True)
class Busy(World):
    """A world whose processes have calls to make until there are none left."""

    requests: deque[EmbedRequest] = field(default_factory=deque)

    @property
    def is_stuck(self) -> bool:
        return False  # it is as long as the job

    def _end(self, call: Call, result: EmbedResult | None, error: QwenEmbedError | None) -> None:
        # Without arguments `super` does not know the class that `slots` made.
        super(Busy, self)._end(call, result, error)
        self.next(call.process)

    def next(self, process: Process) -> None:
        """Begin the next call, if there is one."""
        if self.requests:
            self.begin(process, self.requests.popleft())


@dataclass(frozen=True, slots=True)
class Played:
    """What became of a job: `texts` and `requests` are by offer, introductions among the latter;
    `refused` requests were not served, `unserved` texts have no vector."""

    seconds: float
    dollars: Decimal
    texts: Counter[str]
    requests: Counter[str]
    tokens: int
    refused: int
    unserved: int


def play(
    texts: list[str], terms: list[Terms], workers: Workers, *, spill_to_paid: bool, seed: int = 0
) -> Played:
    """Have so many workers embed the texts, in calls of a worker's batch."""
    clock, random = SimulatedClock(MORNING), Random(seed)
    offers = [_offer(each) for each in terms]
    servers = {offer.key: _server(random, each) for offer, each in zip(offers, terms, strict=True)}
    calls = (EmbedRequest(part, "document", SPACE) for part in _parts(texts, workers.batch_rows))
    world = Busy(random, clock, servers, requests=deque(calls))
    ledger = MemoryLedger(Budget(None, None), clock)
    for number in range(workers.count):
        router = _router(
            offers, world, spill_to_paid=spill_to_paid, concurrency=workers.concurrency
        )
        process = Simulated(number, router, ledger, world.calls)
        world.processes.append(process)
        for _ in range(workers.in_flight):
            world.at(0.0, lambda process=process: world.next(process))  # type: ignore[misc]
    world.run()
    return _played(world, ledger)


def _parts(texts: list[str], size: int) -> Iterator[tuple[str, ...]]:
    rest = iter(texts)
    while part := tuple(islice(rest, size)):
        yield part


def _offer(terms: Terms) -> ConfiguredOffer:
    name = terms.name
    limits = []
    if terms.requests_per_minute is not None or terms.tokens_per_minute is not None:
        limits.append(
            Meter(
                "minute",
                name,
                "",
                MINUTE,
                requests=terms.requests_per_minute,
                tokens=terms.tokens_per_minute,
            )
        )
    if terms.at_once is not None:
        limits.append(Meter("flight", name, "", UnderWay(), requests=terms.at_once))
    grants = []
    if terms.granted_tokens:
        grant = Meter("grant", name, "", Ever(), tokens=terms.granted_tokens)
        grants.append(ConfiguredGrant(grant, None))
    return ConfiguredOffer(
        f"{name}/{MODEL.name}",
        ReadsAll(ProviderConfig(name, api_key=SECRET.format(name))),
        name,
        Offer(MODEL.name, MODEL.name, max_inputs=terms.texts, max_concurrency=terms.at_once),
        MODEL,
        terms.price,
        private=False,
        grants=tuple(grants),
        limits=tuple(limits),
    )


def _server(random: Random, terms: Terms) -> Server:
    """Keeps its own count of the requests of a minute, as the service would."""
    account = Account(per_minute=terms.requests_per_minute)
    return Server(
        random, account, "", latency=(0.7 * terms.seconds, 1.3 * terms.seconds), cap=terms.texts
    )


def _router(
    offers: list[ConfiguredOffer], world: World, *, spill_to_paid: bool, concurrency: int
) -> Router:
    catalogue = Catalogue(MODEL, tuple(offers), {})
    return Router(
        catalogue,
        free_first,
        free_first,
        Health(Random(world.random.random())),
        {},
        world.clock,
        world.events.append,
        Parity(tuple(offers), {}, frozenset(), {}),
        Canaries(500),
        concurrency=concurrency,
        spill_to_paid=spill_to_paid,
        tariffs=Tariffs(budgeted=False),
    )


def _played(world: Busy, ledger: MemoryLedger) -> Played:
    texts: Counter[str] = Counter()
    requests: Counter[str] = Counter()
    for call in world.calls:
        if call.result is not None:
            texts.update(key.split("/")[0] for key in call.result.offers if key is not None)
    refused = tokens = 0
    for attempt in world.attempts:
        requests[attempt.job.offer.account] += 1
        tokens += attempt.counted
        refused += not attempt.counted
    served = sum(texts.values())
    asked = sum(len(call.request.texts) for call in world.calls)
    return Played(world.elapsed, ledger.spent, texts, requests, tokens, refused, asked - served)
