"""What a job would cost: the real router, run on paper, from what is known and counted by now.

Nothing is sent, spent, learnt, logged or told to observers. What is predicted is what the router
does if every server answers well, as fast as the others, and nobody else uses the same accounts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from decimal import Decimal
from functools import partial
from itertools import count
from math import ceil
from random import Random
from typing import NamedTuple

from qwen_embed_plugins.amounts import Amount
from qwen_embed_plugins.call import EmbedCall
from qwen_embed_plugins.canary import Canaries
from qwen_embed_plugins.catalogue import ConfiguredOffer
from qwen_embed_plugins.choosing import LIMIT_PATIENCE_SECONDS
from qwen_embed_plugins.errors import BudgetExceeded, NoOfferLeft
from qwen_embed_plugins.health import Health
from qwen_embed_plugins.ledger import MemoryLedger
from qwen_embed_plugins.meters import Key
from qwen_embed_plugins.pacing import Pacing
from qwen_embed_plugins.paper import (
    DIMENSIONS,
    BundledLedger,
    Bundles,
    PaperServer,
    Tally,
    on_paper,
    probe_rows,
)
from qwen_embed_plugins.parity import Parity
from qwen_embed_plugins.places import Places
from qwen_embed_plugins.provider import prefixed
from qwen_embed_plugins.router import EmbedRequest, Router
from qwen_embed_plugins.setup import Setup
from qwen_embed_plugins.simulated import SimulatedClock, SimulatedDriver
from qwen_embed_plugins.spaces import EmbeddingSpace
from qwen_embed_plugins.tariffs import Tariffs
from qwen_embed_plugins.tokens import HIGH, LOW, estimate_tokens
from qwen_embed_plugins.types import Role

MOST_TEXTS = 4_000
"""So many texts are gone through one by one; of more, each stands for several."""

MOST_REQUESTS = 500
"""About as many requests are, unless an offer takes so few texts in each that these would be fewer
than a thousand."""

ROUNDS = 3
"""So many times a call that was given up is taken up again on paper; the rest is extrapolated."""

TOGETHER_SECONDS = 7_200.0
"""Calls that begin nearer than this are one time: a limit of 24 hours forgets in steps."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What is to be embedded: `count` texts with `tokens` in all, as the servers count them, a
    query's instruction included. `sample` is every so-many-th of them, where they are known; else
    they are all about as long."""

    count: int
    tokens: float
    sample: tuple[str, ...] = ()
    stride: int = 1

    @classmethod
    def of(cls, texts: Iterable[str], prefix_tokens: int = 0) -> Workload:
        """These texts, with tokens as estimated. They are read once, and few of many are kept."""
        kept: list[str] = []
        count, tokens, stride = 0, 0, 1
        for text in texts:
            if count % stride == 0:
                kept.append(text)
                if len(kept) > MOST_TEXTS:
                    del kept[1::2]
                    stride *= 2
            count += 1
            tokens += estimate_tokens(text) + prefix_tokens
        return cls(count, tokens, tuple(kept), stride)

    def counted(self, tokens: int) -> Workload:
        """The same texts, of which servers count so many tokens."""
        return replace(self, tokens=tokens)

    def first(self, count: int) -> Workload:
        """The first so many of them."""
        return self if count >= self.count else Workload(count, self.tokens * count / self.count)


@dataclass(frozen=True, slots=True)
class Share:
    """What of a job goes to one offer, and what it costs there: `cost` is paid and `credit` covered
    by grants, in US dollars. `own_tokens` of its `tokens` are those of known texts of ours, by
    which a new offer is met and shows that it reads to the end."""

    offer: str
    texts: int
    requests: int
    tokens: int
    covered: int
    own_tokens: int
    cost: Decimal
    credit: Decimal


@dataclass(frozen=True, slots=True)
class Later:
    """What is left of a job, if it is taken up again whenever that is said to be worth it: from
    `begins` (seconds since the epoch) on, for so many `seconds`. `is_extrapolated`: the end is
    farther away than was gone through."""

    begins: float
    seconds: float
    cost: Decimal
    is_extrapolated: bool


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What a call with a job would do: the offers in the order of their first use, how many of its
    `texts` it serves, in how many `seconds`; for each other offer why it has no share, or why what
    is left does not go there. `later` is None if nothing is left, or if nothing says when more
    would be served."""

    shares: tuple[Share, ...]
    texts: int
    served: int
    seconds: float
    reasons: Mapping[str, str]
    later: Later | None = None
    weight: int = 1

    @property
    def left(self) -> int:
        return self.texts - self.served

    @property
    def tokens(self) -> int:
        return sum(share.tokens for share in self.shares)

    @property
    def requests(self) -> int:
        return sum(share.requests for share in self.shares)

    @property
    def cost(self) -> Decimal:
        return sum((share.cost for share in self.shares), Decimal(0))

    @property
    def grain(self) -> Decimal:
        """What one text costs, at most: by so much the end of a budget or a grant may be missed,
        since only the tokens of all texts together are known."""
        ends = self.left or len(self.shares) > 1 or any(share.covered for share in self.shares)
        each = (share.cost / share.texts for share in self.shares if share.texts)
        return max(each, default=Decimal(0)) if ends else Decimal(0)


def prefix_tokens(setup: Setup, role: Role) -> int:
    """How many tokens, as estimated, the model's prefix or the instruction adds to each text."""
    instruction = setup.settings.instruction if role == "query" else None
    [bare] = prefixed([""], role, instruction, setup.catalogue.model)
    return len(bare.encode()) // 4


def rehearse(
    setup: Setup,
    workload: Workload,
    role: Role,
    now: float,
    *,
    factor: float = 1.0,
    ahead: bool = True,
    most_texts: int | None = None,
) -> Rehearsal:
    """What one call with these texts would do now (seconds since the epoch), if servers count
    `factor` times as many tokens as the workload says.

    Reads the state and what was counted, and changes neither. Blocks for that and for some tenths
    of a second; `ahead` costs as much again where a call is given up before its end. Raises
    `ConfigurationError` where the state cannot be read or a policy is broken.
    """
    stage = _Stage(setup, role, factor, most_texts or _most_texts(setup.catalogue.offers))
    run = stage.call(workload, stage.begin(now))
    later = stage.later(workload, run) if ahead and run.served < workload.count else None
    seconds = run.known.moment - now
    return Rehearsal(
        run.shares, workload.count, run.served, seconds, run.reasons, later, run.weight
    )


def cost_range(
    setup: Setup, workload: Workload, role: Role, now: float
) -> tuple[Rehearsal, Rehearsal, Decimal, Decimal]:
    """Rehearsals with the fewest and the most tokens that an estimate may stand for; and the least
    and the most that the job costs then."""
    ends = [
        rehearse(setup, workload, role, now, factor=factor, ahead=False)
        for factor in (1 / HIGH, 1 / LOW)
    ]
    low = min(end.cost - end.grain for end in ends)
    return ends[0], ends[1], max(low, Decimal(0)), max(end.cost + end.grain for end in ends)


class _Known(NamedTuple):
    """What one call leaves to the next: what was counted, which offers were met (and whether they
    agreed with the first of them), and what was learnt of them."""

    moment: float
    counts: Sequence[tuple[Key, Amount]]
    met: Mapping[str, bool]
    capabilities: Mapping[tuple[str, str], str]


@dataclass(frozen=True, slots=True)
class _Run:
    """How one call ended: of so many texts that were `offered` so many were `served`."""

    offered: int
    shares: tuple[Share, ...]
    served: int
    reasons: Mapping[str, str]
    retry_at: float | None
    known: _Known
    weight: int

    @property
    def is_given_up(self) -> bool:
        return self.served < self.offered

    @property
    def goes_on_at(self) -> float:
        """When the next call is worth it."""
        until = self.retry_at if self.is_given_up else None
        return max(self.known.moment, until or 0.0)


class _OnPaper(NamedTuple):
    """Texts that stand for a workload: each for `weight` of them, its tokens in `counts`."""

    texts: tuple[str, ...]
    counts: Mapping[str, float]
    weight: int


@dataclass(slots=True)
class _Stage:
    """Makes calls on paper, with what the settings and the state give."""

    setup: Setup
    role: Role
    factor: float
    most_texts: int
    real: Router = field(init=False)

    def __post_init__(self) -> None:
        self.real = self.setup.router()

    @property
    def instruction(self) -> str | None:
        return self.setup.settings.instruction if self.role == "query" else None

    def begin(self, now: float) -> _Known:
        """What is known and counted by now."""
        parity = self.real.parity
        met = dict.fromkeys(parity.met, True)
        for offer in self.setup.catalogue.offers:
            compared = parity.comparison(offer)
            if compared is not None:
                met[offer.endpoint] = compared.same_space
        return _Known(now, self.setup.ledger.counts(), met, self.real.capabilities)

    def call(self, workload: Workload, known: _Known) -> _Run:
        """One call on paper. Where only few of very many texts are served, that is seen best with
        not many more than these."""
        run = self._run(workload, known)
        for _ in range(ROUNDS):
            if run.weight == 1 or 2 * run.served >= run.offered:
                break
            fewer = max(self.most_texts, 2 * run.served)
            closer = self._run(workload.first(fewer), known)
            if closer.served >= closer.offered:
                break  # by the coarser measure they end before, by this one they do not
            run = closer
        return run

    def later(self, workload: Workload, run: _Run) -> Later | None:
        """What becomes of the rest, if it is taken up again whenever that is said to be worth it;
        None if it is not said, or is of no use."""
        rest = workload.count - run.served
        begun: list[float] = []
        served, before, cost = 0, 0, Decimal(0)
        for _ in range(4 * ROUNDS):  # not every time that is said to be worth it serves something
            if run.is_given_up and run.retry_at is None:
                return None
            known = run.known._replace(moment=run.goes_on_at)
            offered = min(rest - served, max(self.most_texts, 2 * run.served))
            run = self._run(workload.first(offered), known)
            if not run.served:
                continue
            if not begun or known.moment - begun[-1] > TOGETHER_SECONDS:
                begun.append(known.moment)
                before = served
            served += run.served
            cost += sum((share.cost for share in run.shares), Decimal(0))
            if served >= rest:
                return Later(begun[0], run.known.moment - begun[0], cost, is_extrapolated=False)
            if len(begun) > ROUNDS:
                break
        if len(begun) < 2:
            return None
        times = len(begun) - 1
        seconds = (begun[-1] - begun[0]) / times * (ceil(rest * times / before) - 1)
        return Later(begun[0], seconds, cost * rest / served, is_extrapolated=True)

    def _run(self, workload: Workload, known: _Known) -> _Run:
        paper = self._on_paper(workload)
        clock = SimulatedClock(known.moment)
        mean = max(1.0, workload.tokens / workload.count)
        bundles = on_paper(
            self.setup.catalogue.offers,
            paper.weight,
            mean,
            partial(_max_inputs, known),
            self.real.most_at_once,
        )
        router = self._router(bundles, known, clock)
        space = EmbeddingSpace(self.setup.space.model, DIMENSIONS)
        request = EmbedRequest(paper.texts, self.role, space, self.instruction)
        inner = MemoryLedger(self.setup.settings.budget, clock)
        # A minute before a job of many minutes matters little, and its slices are others.
        inner.load(item for item in known.counts if paper.weight == 1 or item[0].kind != "minute")
        call = EmbedCall(router, request, _nobody_else)
        ledger = BundledLedger(inner, bundles, clock, call.chooser.asked.__contains__)
        server = PaperServer(bundles, paper.counts, self.factor)
        driver = SimulatedDriver(server.respond, ledger, clock)
        offers: Sequence[str | None] = ()
        # Where no text is served, the outcome says why, as it does where some are left.
        with suppress(NoOfferLeft, BudgetExceeded):
            offers = driver.run(lambda wake: call.run()).offers
        met = {place: known.met.get(place, True) for place in router.parity.met}
        return _Run(
            workload.count,
            _shares(
                server.requests - ledger.spared,
                offers,
                ledger.tallies,
                workload.count / len(paper.texts),
            ),
            _scaled(len(offers) - offers.count(None), workload.count / len(paper.texts)),
            self._reasons(call),
            call.outcome.retry_at(),
            _Known(clock.seconds, inner.counts(), met, router.capabilities),
            paper.weight,
        )

    def _on_paper(self, workload: Workload) -> _OnPaper:
        if workload.sample:
            texts, weight = workload.sample, workload.stride
        else:
            weight = ceil(workload.count / self.most_texts)
            texts = self._made_up(workload, ceil(workload.count / weight))
        model = self.setup.catalogue.model
        sent = prefixed(texts, self.role, self.instruction, model)
        estimates = [estimate_tokens(text) for text in sent]
        ratio = self.factor * workload.tokens / (weight * sum(estimates))
        counts = dict(zip(sent, (ratio * estimate for estimate in estimates), strict=True))
        # Servers that add the instruction themselves get the texts bare.
        counts |= dict(zip(texts, (counts[text] for text in sent), strict=True))
        return _OnPaper(texts, counts, weight)

    def _made_up(self, workload: Workload, count: int) -> tuple[str, ...]:
        """So many texts as long as those of a workload are in the mean."""
        tokens, longer = divmod(round(workload.tokens * count / workload.count), count)
        beginning = prefix_tokens(self.setup, self.role)
        short, long = ("x" * max(1, 4 * (n - 1 - beginning) + 1) for n in (tokens, tokens + 1))
        return (long,) * longer + (short,) * (count - longer)

    def _router(self, bundles: Bundles, known: _Known, clock: SimulatedClock) -> Router:
        """The real router, with fresh memory and offers on paper, telling nobody."""
        real, parity = self.real, self.real.parity
        patience = max(real.timeout_seconds, LIMIT_PATIENCE_SECONDS * (self.role == "document"))
        is_stretched = bundles.stretched > 1
        return replace(
            real,
            catalogue=replace(real.catalogue, offers=bundles.offers),
            health=Health(Random(0)),
            capabilities=_without_max_inputs(known.capabilities),
            now=clock,
            emit=lambda event: None,
            parity=Parity(
                bundles.offers,
                {place: probe_rows(agrees) for place, agrees in known.met.items()},
                parity.trusted,
                dict(parity.verdicts),
                parity.verified_only,
            ),
            canaries=Canaries(real.canaries.every),
            ways_out=lambda without: (),
            # What is waited for in minutes is waited for in longer ones, too.
            timeout_seconds=patience * bundles.stretched if is_stretched else real.timeout_seconds,
            miscounting=set(),
            unread={},
            places=Places(),
            pacing=Pacing(),
            tariffs=Tariffs(self.setup.settings.budget.limited),
            job_ids=count(),
        )

    def _reasons(self, call: EmbedCall) -> dict[str, str]:
        """Why offers have no share, or no more of one. Of vectors the real router knows more."""
        return {
            offer.key: self.real.parity.refuses(offer) or call.outcome.reasons()[offer.key]
            for offer in self.setup.catalogue.offers
        }


def _most_texts(offers: Iterable[ConfiguredOffer]) -> int:
    fewest = min((offer.max_inputs for offer in offers), default=1)
    return min(MOST_TEXTS, max(1_000, MOST_REQUESTS * fewest))


def _nobody_else() -> None:
    """No other flow waits for a place."""


def _max_inputs(known: _Known, offer: ConfiguredOffer) -> int:
    learnt = known.capabilities.get((offer.endpoint, "max_inputs"))
    return offer.max_inputs if learnt is None else min(offer.max_inputs, int(learnt))


def _without_max_inputs(
    capabilities: Mapping[tuple[str, str], str],
) -> dict[tuple[str, str], str]:
    """They stand in the offers on paper."""
    return {key: value for key, value in capabilities.items() if key[1] != "max_inputs"}


def _scaled(texts: int, each: float) -> int:
    return round(texts * each)


def _shares(
    requests: Mapping[str, int],
    offers: Sequence[str | None],
    tallies: Mapping[str, Tally],
    each: float,
) -> tuple[Share, ...]:
    """By offer in the order of first use; each text that was served stands for so many."""
    served, shares, before = Counter(offers), [], 0
    for key, count_ in requests.items():
        # Rounded as they add up, lest the sum be another.
        texts = _scaled(before + served[key], each) - _scaled(before, each)
        before += served[key]
        shares.append(Share(key, texts, count_, **asdict(tallies[key])))
    return tuple(shares)
