"""Drawing a schedule from a seed: offers and their terms, servers and their tempers, processes and
their calls, and what happens to them. The same seed gives the same schedule."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from qwen_embed_plugins.canary import Canaries
from qwen_embed_plugins.catalogue import Catalogue, ConfiguredOffer
from qwen_embed_plugins.drivers import settle_rest
from qwen_embed_plugins.grants import ConfiguredGrant
from qwen_embed_plugins.health import Health
from qwen_embed_plugins.ledger import Ledger, MemoryLedger
from qwen_embed_plugins.meters import Meter, in_dollars
from qwen_embed_plugins.offers import Offer
from qwen_embed_plugins.parity import Parity, known_probes
from qwen_embed_plugins.provider import Provider, ProviderConfig
from qwen_embed_plugins.router import EmbedRequest, Router
from qwen_embed_plugins.routing import cheapest, fastest, free_first, ordered
from qwen_embed_plugins.setting_checks import ROLES
from qwen_embed_plugins.settings import Budget
from qwen_embed_plugins.shared_ledger import SQLiteLedger
from qwen_embed_plugins.spaces import EmbeddingSpace
from qwen_embed_plugins.tariffs import Tariffs
from qwen_embed_plugins.testing.simulation import SimulatedClock
from qwen_embed_plugins.types import Fault, Role
from qwen_embed_plugins.windows import DAY, MINUTE, UTC_DAY, Daily, Ever, UnderWay, Window, daily
from tests.simulation.servers import (
    DIMENSIONS,
    MODEL,
    Account,
    AddsInstruction,
    ReadsAll,
    Server,
)
from tests.simulation.world import Call, World

T = TypeVar("T")

MORNING = 1_800_000_000.0
"""2027-01-15, 08:00 UTC."""

MIDNIGHT = MORNING + 16 * 3600
"""When days in UTC end, and with them budgets."""

SHORT = tuple(
    f"The {kind} {thing} stands beside the old {place} of our village"
    for kind in ("red", "small", "wooden", "broken")
    for thing in ("cart", "bench", "statue")
    for place in ("mill", "church", "well")
)
LONG = tuple(
    f"A story of {hero}. " + "And then the road went on through hills and woods. " * times
    for hero in ("a fox", "two kings", "the miller")
    for times in (40, 110, 240)
)
INSTRUCTION = "Given a question, retrieve what answers it"
SECRET = "hardly-to-be-guessed-{}"


@dataclass(slots=True)
class Simulated:
    """A process of a schedule. Its router is its own; ledger and state are shared, or are files."""

    number: int
    router: Router
    ledger: Ledger
    calls: list[Call]

    def kill(self) -> None:
        if isinstance(self.ledger, SQLiteLedger):
            self.ledger._books.close()
            self.ledger.after_fork()  # forgets what it holds, and leaves the file as it is
            for call in self.mine():
                call.held.clear()
        else:
            for call in self.mine():
                settle_rest(self.ledger, call.held)

    def mine(self) -> list[Call]:
        return [call for call in self.calls if call.process is self]


@dataclass(slots=True)
class Schedule:
    """What was drawn. `is_calm`: the clock does not jump, and nobody dies or gives up."""

    seed: int
    random: Random
    world: World
    budget: Budget
    offers: tuple[ConfiguredOffer, ...]
    policy: Callable[..., Any]
    spill_to_paid: bool
    spill_after_seconds: float
    concurrency: int
    canary_every: int
    path: Path | None
    ledger: Ledger
    jumps: list[float] = field(default_factory=list)
    kills: int = 0
    cancels: int = 0
    jobs: list[EmbedRequest] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    """What was logged."""

    def start(self, number: int) -> Simulated:
        """A new process, with what the state knows."""
        clock, random = self.world.clock, self.random
        ledger = self.ledger
        if self.path is not None:
            ledger = SQLiteLedger(str(self.path), self.budget, clock, tend_seconds=None)
        state = self.world.state
        parity = Parity(
            self.offers,
            known_probes(state.probes(), self.offers),
            frozenset(offer.key for offer in self.offers if offer.trusted),
            state.verdicts(MODEL.name),
        )
        router = Router(
            Catalogue(MODEL, self.offers, {}),
            self.policy,
            self.policy,
            Health(Random(random.random())),
            state.capabilities(),
            clock,
            self.world.events.append,
            parity,
            Canaries(self.canary_every),
            concurrency=self.concurrency,
            spill_after_seconds=self.spill_after_seconds,
            spill_to_paid=self.spill_to_paid,
            tariffs=Tariffs(self.budget.limited),
        )
        process = Simulated(number, router, ledger, self.world.calls)
        self.world.processes.append(process)
        if self.path is not None:
            self._tend(process)
        return process

    def _tend(self, process: Simulated) -> None:
        def tend() -> None:
            if process in self.world.processes:
                assert isinstance(process.ledger, SQLiteLedger)
                process.ledger.tend()
                if self.world.work:
                    self._tend(process)

        # Every second at first; where calls wait for hours, less often.
        wait = self.random.uniform(0.3, 1.5) * (1 + self.world.elapsed / 100)
        self.world.at(self.world.elapsed + wait, tend, housekeeping=True)

    def run(self) -> None:
        """Let all of it happen."""
        log, handler = logging.getLogger("qwen_embed_plugins"), _Listener(self.said)
        log.addHandler(handler)
        passes_on, log.propagate = log.propagate, False
        try:
            self.world.run()
        finally:
            log.removeHandler(handler)
            log.propagate = passes_on

    def close(self) -> None:
        for process in self.world.processes:
            process.ledger.close()


class _Listener(logging.Handler):
    def __init__(self, said: list[str]) -> None:
        super().__init__()
        self._said = said

    def emit(self, record: logging.LogRecord) -> None:
        self._said.append(record.getMessage())


@dataclass(slots=True)
class _Draw:
    """Draws the parts of one schedule."""

    random: Random
    texts: list[str]
    now: float
    peaceful: bool
    """No server fails, and nothing is limited: what then happens is foreseen to the last text."""
    wild: bool = False
    spaces: tuple[int, ...] = (0,)
    cuts: bool = False
    everywhere: frozenset[str] = frozenset()
    limits: dict[str, tuple[Meter, ...]] = field(default_factory=dict)
    pools: dict[str, tuple[ConfiguredGrant, ...]] = field(default_factory=dict)
    accounts: dict[str, Account] = field(default_factory=dict)

    def __post_init__(self) -> None:
        random = self.random
        if not self.peaceful:
            self.wild = self.chance(0.5)
            self.spaces = (0, 0, 1) if self.chance(0.2) else (0,)
            self.cuts = self.chance(0.15)
        if self.cuts:
            self.texts += random.sample(LONG, 2)
        if self.chance(0.5):
            self.everywhere = self.some_texts(0.08)

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def maybe(self, share: float, *values: T) -> T | None:
        return self.random.choice(values) if self.chance(share) else None

    def some_texts(self, share: float) -> frozenset[str]:
        return frozenset(text for text in self.texts if self.random.random() < share)

    def offer(self, number: int, before: list[ConfiguredOffer]) -> ConfiguredOffer:
        name, random = f"server{number}", self.random
        shares = before and self.chance(0.3)
        account = random.choice(before).account if shares else name
        kind = random.choice([ReadsAll, ReadsAll, AddsInstruction])
        provider = Provider if self.cuts else kind
        terms = Offer(
            MODEL.name,
            MODEL.name,
            max_inputs=self.maybe(0.6, 1, 2, 3, 8),
            max_batch_tokens=self.maybe(0.2, 20, 60),
            max_concurrency=self.maybe(0.3, 1, 2),
            membership="unproven" if not self.peaceful and self.chance(0.03) else "declared",
        )
        price = None if self.peaceful else self.maybe(0.95, *map(Decimal, (0, 0, 100, 200, 500)))
        price = Decimal(0) if self.peaceful else price
        config = ProviderConfig(name, api_key=SECRET.format(account))
        plain = ConfiguredOffer(
            f"{name}/toy", provider(config), account, terms, MODEL, price, price == 0
        )
        serve: tuple[Role, ...] = ROLES
        if self.chance(0.15):
            serve = random.choice([("query",), ("document",)])
        return replace(plain, grants=self.grants(plain), limits=self.limits_of(plain), serve=serve)

    def limits_of(self, offer: ConfiguredOffer) -> tuple[Meter, ...]:
        """Those of the account, drawn once, and now and then one of the offer alone."""
        if self.peaceful:
            return ()
        if offer.account not in self.limits:
            self.limits[offer.account] = (*self.account_limits(offer.account),)
        own = self.maybe(0.05, 1, 3)
        minutely = Meter("minute", offer.account, offer.key, MINUTE, requests=own)
        return (*self.limits[offer.account], *([minutely] if own else []))

    def account_limits(self, account: str) -> list[Meter]:
        meters = []
        if self.chance(0.25):
            requests, tokens = self.maybe(0.8, 1, 2, 5, 20), self.maybe(0.3, 30, 150)
            meters.append(Meter("minute", account, "", MINUTE, requests=requests, tokens=tokens))
        if self.chance(0.1):
            meters.append(Meter("day", account, "", DAY, requests=self.random.choice([2, 9])))
        elif self.chance(0.1):
            window = daily(self.random.choice(["08:01 UTC", "00:00 UTC"]))
            requests = self.random.choice([2, 9])
            meters.append(Meter("daily", account, "", window, requests=requests))
        if self.chance(0.2):
            at_once = self.random.choice([1, 2, 4])
            meters.append(Meter("flight", account, "", UnderWay(), requests=at_once))
        if self.chance(0.15):
            money = in_dollars(self.random.choice([Decimal(0), Decimal("0.005"), Decimal("0.05")]))
            windows: list[Window] = [UTC_DAY, Ever()]
            window_ = self.random.choice(windows)
            name = "usd_total" if window_ == Ever() else "usd_per_day"
            meters.append(Meter("budget", account, "", window_, money=money, setting=name))
        return meters

    def grants(self, offer: ConfiguredOffer) -> tuple[ConfiguredGrant, ...]:
        if offer.price == 0 or self.chance(0.4):
            return ()
        if self.chance(0.5):
            return (self.grant(offer, offer.key),)
        if offer.account not in self.pools:
            pool = [self.grant(offer, "") for _ in range(self.random.randrange(1, 3))]
            kinds = {(grant.meter.kind, grant.meter.window): grant for grant in pool}
            self.pools[offer.account] = tuple(kinds.values())
        pools = self.pools[offer.account]
        return tuple(grant for grant in pools if offer.price or grant.meter.kind == "grant")

    def grant(self, offer: ConfiguredOffer, only: str) -> ConfiguredGrant:
        random, account = self.random, offer.account
        until = self.maybe(0.4, self.now + random.uniform(0, 30), self.now + 1e6)
        tokens = random.choice([40, 300, 3000, 30_000])
        choice = random.randrange(3 if offer.price else 2)
        if choice == 2:
            money = in_dollars(Decimal(tokens) / 10_000)
            meter = Meter("credit", account, only, Ever(), money=money)
        elif choice == 1:
            window: Daily = daily(random.choice(["00:00 UTC", "08:01 UTC"]))
            meter = Meter("grant", account, only, window, tokens=tokens)
        else:
            meter = Meter("grant", account, only, Ever(), tokens=tokens)
        return ConfiguredGrant(meter, until)

    def account(self, offer: ConfiguredOffer) -> Account:
        """The service's own view of an account: other limits than those stated, now and then."""
        known = self.accounts.get(offer.account)
        if known is None:
            known = self.accounts[offer.account] = Account(says_when=self.chance(0.7))
            if not self.peaceful:
                known.per_minute = self.maybe(0.15, 1, 3, 10)
                if self.wild and self.chance(0.05):
                    known.gone = self.random.choice(
                        [
                            Fault("bad_key", f"no such key: {SECRET.format(offer.account)}"),
                            Fault("quota_spent", "nothing left", "account"),
                            Fault("bad_offer", "no such model"),
                        ]
                    )
                    known.gone_at = self.now + self.random.uniform(0, 20)
        return known

    def server(self, offer: ConfiguredOffer) -> Server:
        random = self.random
        account = self.account(offer)
        server = Server(random, account, offer.provider.config.api_key or "")
        if self.everywhere or self.chance(0.3):
            server.hates = self.everywhere | self.some_texts(0.05)
        server.cap = self.maybe(0.2, 1, 2, 5) or 1000
        server.names_limits = self.chance(0.5)
        server.latency = random.choice([(0.01, 0.2), (0.01, 3.0), (1.0, 8.0)])
        server.counts = random.choice([1.0, 1.0, 1.0, None, 0.7, 1.9, 3.0])
        server.space = random.choice(self.spaces)
        if self.cuts and self.chance(0.6):
            server.reads = random.choice([512, 1024, 2048])
            server.counts = random.choice([1.0, None])
        if self.wild:
            server.temper = random.choice([0.0, 0.0, 0.05, 0.3, 0.9])
            server.slow = random.choice([0.0, 0.0, 0.0, 0.1])
            if self.chance(0.1):
                server.poison = self.some_texts(0.05)
            if self.chance(0.1):
                server.mangles = self.some_texts(0.05)
            if not self.cuts and self.chance(0.08):
                server.temper = server.slow = 0.0
                server.later_space = 2
                server.changes_at = self.now + random.uniform(0, 20)
        return server


def draw(
    seed: int, path: Path | None = None, trace: Callable[[str], None] | None = None
) -> Schedule:
    """The schedule of a seed, ready to run; with a path the ledger is a file there."""
    random = Random(seed)
    clock = SimulatedClock(random.choice([MORNING, MORNING, MORNING, MIDNIGHT - 8]))
    peaceful = random.random() < 0.15
    texts = random.sample(SHORT, random.choice([3, 6, 12, 20]))
    parts = _Draw(random, texts, clock.seconds, peaceful)
    offers: list[ConfiguredOffer] = []
    for number in range(random.choice([1, 2, 2, 3, 3, 4, 5])):
        offers.append(parts.offer(number, offers))
    servers = {offer.key: parts.server(offer) for offer in offers}
    per_day = random.choice([None, None, Decimal(1), Decimal("0.01"), Decimal(0)])
    budget = Budget(per_day, parts.maybe(0.2, Decimal("0.02")))
    world = World(random, clock, servers, interleave=random.choice([0.0, 0.2]), trace=trace)
    schedule = Schedule(
        seed,
        random,
        world,
        budget,
        tuple(offers),
        random.choice([free_first, free_first, free_first, cheapest, fastest, ordered]),
        spill_to_paid=parts.chance(0.3),
        spill_after_seconds=random.choice([0.0, 2.0, 2.0]),
        concurrency=random.choice([1, 3, 8]),
        canary_every=random.choice([3, 7, 500, 500]),
        path=path,
        ledger=MemoryLedger(budget, clock),
    )
    _describe(schedule)
    _plan(schedule, parts)
    return schedule


def _plan(schedule: Schedule, parts: _Draw) -> None:
    """When processes start and call, and what happens to them."""
    world, random = schedule.world, schedule.random
    together = parts.chance(0.5)
    span = random.choice([1.0, 30.0, 100.0])
    if any(server.later_space is not None for server in world.servers.values()):
        schedule.canary_every = 3
        late = schedule.start(99)
        for number in range(6):
            _call(schedule, late, _request(parts), 5.0 * number)
    for number in range(random.choice([1, 1, 2, 2, 3, 4])):
        process = schedule.start(number)
        for _ in range(random.choice([1, 1, 2, 3])):
            when = 0.0 if together else random.uniform(0, span)
            _call(schedule, process, _request(parts), when)
        if not parts.peaceful and parts.chance(0.15):
            schedule.kills += 1
            _kill(schedule, process, parts, random.uniform(0, 10))
    if not parts.peaceful and parts.chance(0.12):
        for _ in range(random.randrange(1, 4)):
            jump = random.choice([1, 30, 3600, 90_000]) * random.choice([1.0, -1.0])
            schedule.jumps.append(jump)
            world.at(random.uniform(0, 15), lambda seconds=jump: world.jump(seconds))  # type: ignore[misc]
    if not parts.peaceful and parts.chance(0.12):
        schedule.cancels += 1
        world.at(random.uniform(0, 10), lambda: _cancel(schedule))


def _call(schedule: Schedule, process: Simulated, request: EmbedRequest, when: float) -> None:
    def begin() -> None:
        if process in schedule.world.processes:
            schedule.world.begin(process, request)

    schedule.jobs.append(request)
    schedule.world.at(when, begin)


def _kill(schedule: Schedule, process: Simulated, parts: _Draw, when: float) -> None:
    def restart() -> None:
        again = schedule.start(process.number)
        _call(schedule, again, _request(parts), schedule.world.elapsed)

    def kill() -> None:
        schedule.world.kill(process)
        schedule.world.after(schedule.random.uniform(0, 5), restart)

    schedule.world.at(when, kill)


def _cancel(schedule: Schedule) -> None:
    calls = [call for call in schedule.world.calls if not call.ended]
    if calls:
        schedule.world.cancel(schedule.random.choice(calls))


def _request(parts: _Draw) -> EmbedRequest:
    random = parts.random
    space = EmbeddingSpace(MODEL.name, random.choice([DIMENSIONS, DIMENSIONS, 4]))
    if random.random() < 0.3:
        return EmbedRequest((random.choice(parts.texts),), "query", space, INSTRUCTION)
    texts = random.sample(parts.texts, random.randrange(1, len(parts.texts) + 1))
    return EmbedRequest(tuple(texts), "document", space)


def _describe(schedule: Schedule) -> None:
    say = schedule.world.say
    for offer in schedule.offers:
        say(f"{offer.key} of {offer.account}: price {offer.price}, {offer.offer}")
        say(f"    grants {offer.grants} limits {offer.limits} serve {offer.serve}")
        say(f"    {schedule.world.servers[offer.key]}")
    say(
        f"{schedule.budget}, {schedule.policy.__name__}, concurrency {schedule.concurrency}, "
        f"spill_to_paid {schedule.spill_to_paid} after {schedule.spill_after_seconds} s"
    )
