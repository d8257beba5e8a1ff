"""What happened in a schedule, held against the laws: by the servers' own record, not the ledger's
or the router's word. Each function raises `Broken` with the name of its law.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from qwen_embed_plugins.amounts import NOTHING, Amount, units
from qwen_embed_plugins.books import LIMIT_SECONDS, usage
from qwen_embed_plugins.calibration import LEAST
from qwen_embed_plugins.call import KNOWN_GOOD
from qwen_embed_plugins.catalogue import RESERVED_OVER_ESTIMATE
from qwen_embed_plugins.errors import NoOfferLeft
from qwen_embed_plugins.ledger import MemoryLedger, budget_meters
from qwen_embed_plugins.meters import GRANTS, Meter
from qwen_embed_plugins.models import qwen3_query
from qwen_embed_plugins.parity import PROBES
from qwen_embed_plugins.reading import BEYOND, LENGTHS, WITHIN, pair
from qwen_embed_plugins.routing import free_first
from qwen_embed_plugins.shared_ledger import SQLiteLedger
from qwen_embed_plugins.spaces import shorten
from qwen_embed_plugins.tokens import estimate_tokens
from qwen_embed_plugins.windows import Rolling
from tests.simulation.schedules import INSTRUCTION, LONG, SECRET, Schedule
from tests.simulation.servers import vector
from tests.simulation.world import Attempt, Call

if TYPE_CHECKING:
    from qwen_embed_plugins.catalogue import ConfiguredOffer

OURS = frozenset(
    {
        KNOWN_GOOD,
        *PROBES,
        *(
            text
            for step in (*LENGTHS, int(4096 * WITHIN), int(4096 * BEYOND))
            for text in pair(step)
        ),
    }
)
"""The texts that may be sent besides those of a call."""

LAWS = {
    "space": "no vector of another space is given",
    "native": "native length, shortened here; documents unaltered, the instruction once",
    "cut": "nothing is cut in silence",
    "blame": "a bad text harms no other",
    "count": "what was used is counted, neither less nor more",
    "limit": "no budget, grant or limit is exceeded by more than went beyond its bound",
    "pay": "nothing is paid that the user did not allow; what is given away goes first",
    "end": "every call ends, and leaves nothing held",
    "secret": "keys and whole texts stand in no message, event or error",
}


class Broken(AssertionError):
    """A law was broken in a schedule."""

    def __init__(self, law: str, what: str) -> None:
        super().__init__(f"{LAWS[law]}: {what}")
        self.law = law


def check(schedule: Schedule) -> None:
    """All laws, after the schedule ran and was closed."""
    for law in (ends, secrets, sent, vectors, blame, counts, limits, pays):
        law(schedule)


# Every call ends


def ends(schedule: Schedule) -> None:
    world = schedule.world
    if world.is_stuck:
        raise Broken("end", f"{world.step} steps, and no end")
    for call in world.calls:
        if not call.ended:
            raise Broken("end", f"call {call.number} waits for what can never come")
    for process in world.processes:
        places = process.router.places
        if places.taken() or any(queue.waiting for queue in places._queues.values()):
            raise Broken("end", f"places of process {process.number}: {places._queues}")
        ledger = process.ledger
        assert isinstance(ledger, (MemoryLedger, SQLiteLedger))
        if ledger._open or ledger.reserved:
            raise Broken("end", f"reservations of process {process.number}: {ledger._open}")
    if isinstance(schedule.ledger, MemoryLedger):
        held = {key: of for key, of in schedule.ledger._held.items() if of != NOTHING}
        if held:
            raise Broken("end", f"the ledger holds {held}")


# Secrets and whole texts


def secrets(schedule: Schedule) -> None:
    said = "\n".join(_said(schedule))
    secret = SECRET.format("")
    if secret in said:
        raise Broken("secret", f"a key stands in {_around(said, secret)!r}")
    if "stands beside" in said or "And then the road" in said:
        for text in {text for call in schedule.world.calls for text in call.request.texts}:
            if text in said:
                raise Broken("secret", f"a whole text stands in {_around(said, text)!r}")


def _around(said: str, part: str) -> str:
    place = said.index(part)
    return said[max(0, place - 60) : place + 60]


def _said(schedule: Schedule) -> Iterator[str]:
    yield from schedule.said
    for event in schedule.world.events:
        yield repr(event)
    for call in schedule.world.calls:
        if call.error is not None:
            yield str(call.error)
            yield repr(call.error)
            if isinstance(call.error, NoOfferLeft):
                yield from call.error.reasons.values()
        if call.result is not None:
            yield repr(call.result.errors)
            for attempt in call.result.attempts:
                if attempt.fault is not None:
                    yield attempt.fault.message


# What was sent


@lru_cache(maxsize=4096)
def _query(text: str, instruction: str) -> str:
    return qwen3_query(text, instruction)


def sent(schedule: Schedule) -> None:
    """Documents unaltered, queries with the instruction once, and nobody else's texts."""
    for call in schedule.world.calls:
        request, texts = call.request, set(call.request.texts)
        instruction = request.instruction or ""
        queries = {_query(text, instruction) for text in texts}
        for attempt in call.attempts.values():
            batch, offer = attempt.job.batch, attempt.job.offer
            if batch.dimensions is not None:
                raise Broken("native", f"{offer.key} was asked for {batch.dimensions} numbers")
            if batch.role == "query":
                apart = offer.provider.adds_instruction
                right = texts if apart else queries
                if apart and batch.instruction != instruction:
                    raise Broken("native", f"{offer.key} was told {batch.instruction!r}")
            else:
                right = texts if request.role == "document" else set()
            for text in batch.texts:
                if text in right or (batch.role == "document" and text in OURS):
                    continue
                # A canary may go with a query.
                if text in PROBES and batch.role == "query":
                    continue
                raise Broken("native", f"{offer.key} got {text[:90]!r} as {batch.role}")
            if len(set(batch.texts)) != len(batch.texts):
                raise Broken("native", f"{offer.key} got a text twice in one request")
            if not offer.is_proven_by_name:
                raise Broken("space", f"{offer.key} is unproven, and was asked")
            if request.role not in offer.serve:
                raise Broken("pay", f"{offer.key} does not serve {request.role}, and was asked")
            limit = offer.max_inputs
            if len(batch.texts) > limit and not set(batch.texts) <= OURS:
                raise Broken("native", f"{offer.key} got {len(batch.texts)} texts, not {limit}")


# What was given


def vectors(schedule: Schedule) -> None:
    """Each vector given is the one that its whole text has in the space, shortened here."""
    allowed = _spaces(schedule)
    for call in schedule.world.calls:
        if call.result is None:
            continue
        request, result = call.request, call.result
        failed = {error.position for error in result.errors}
        expected = _expected(request.texts, request.role, request.space.dimensions, 0)
        with np.errstate(invalid="ignore"):
            wrong = ~(np.abs(result.vectors - expected).max(axis=1) < 1e-5)
        for place in failed:
            if not np.isnan(result.vectors[place]).all() or result.offers[place] is not None:
                raise Broken("blame", f"call {call.number} failed at {place} and gave a vector")
        for row in np.flatnonzero(wrong):
            if int(row) not in failed:
                _explain(call, int(row), allowed)
        for place, key in enumerate(result.offers):
            if key is None and place not in failed:
                raise Broken("native", f"call {call.number} names no offer for text {place}")
    _changes(schedule)


def _expected(texts: Iterable[str], role: str, dimensions: int, space: int) -> Any:
    sent_ = [_query(text, INSTRUCTION) if role == "query" else text for text in texts]
    return shorten(np.stack([vector(text, space) for text in sent_]), dimensions)


def _explain(call: Call, place: int, allowed: frozenset[int]) -> None:
    """Which law a vector breaks that is not the one of space 0; none if its space is allowed."""
    assert call.result is not None
    row, key = call.result.vectors[place], call.result.offers[place]
    request = call.request
    text, dimensions = request.texts[place], request.space.dimensions
    where = f"text {place} of call {call.number} from {key}"
    for space in (0, 1, 2):
        right = _expected([text], request.role, dimensions, space)[0]
        if np.abs(row - right).max() < 1e-5:
            if space not in allowed:
                raise Broken("space", f"{where} is of space {space}, not of {set(allowed)}")
            return
        for reads in (512, 1024, 2048):
            cut = _expected([text[: (reads - 1) * 4]], request.role, dimensions, space)[0]
            if text in LONG and np.abs(row - cut).max() < 1e-5:
                raise Broken("cut", f"{where} was cut after {reads} tokens")
    raise Broken("native", f"{where} is the vector of something else")


def _spaces(schedule: Schedule) -> frozenset[int]:
    """The space that the first offer to be met gave the measure of; with one offer alone, its own.
    A space to which a server changed later is another law's business."""
    servers = schedule.world.servers
    by_endpoint = {offer.endpoint: offer for offer in schedule.offers}
    met = [by_endpoint[endpoint] for endpoint in schedule.world.state.probes()]
    changing = {server.later_space for server in servers.values()} - {None}
    if met:
        first = servers[met[0].key]
        measure = {first.space} if first.later_space is None else {first.space, 2}
    else:
        measure = {servers[offer.key].space for offer in schedule.offers if offer.is_proven_by_name}
    return frozenset(measure | {space for space in changing if space is not None})


def _changes(schedule: Schedule) -> None:
    """After a server has changed, a process takes at most as many answers of it as lie between two
    looks, and what is under way meanwhile; none of an answer that a look refused."""
    for offer in schedule.offers:
        server = schedule.world.servers[offer.key]
        if server.later_space is None:
            continue
        if not _was_met_before(schedule, offer, server.changes_at):
            continue
        if _was_met_after(schedule, offer, server.changes_at):
            continue  # a process that knew nothing of the first meeting sets the measure anew
        for process in {id(call.process): call.process for call in schedule.world.calls}.values():
            after = [
                attempt
                for attempt in schedule.world.attempts
                if attempt.call.process is process
                and attempt.job.offer is offer
                and attempt.arrived_at is not None
                and attempt.arrived_at >= server.changes_at
            ]
            good = sum(1 for attempt in after if _was_given(attempt))
            bad = sum(1 for attempt in after if not attempt.counted)
            # Each failure may have carried the look; at first a meeting or a probe goes apart.
            if good > schedule.canary_every * (bad + 1) + schedule.concurrency:
                raise Broken("space", f"{offer.key} changed, and {good} answers of it were taken")


def _was_given(attempt: Attempt) -> bool:
    """Whether a vector of this answer is in the call's result."""
    call, texts = attempt.call, attempt.job.batch.texts
    if call.result is None or not attempt.counted or OURS.issuperset(texts):
        return False
    of = dict(zip(call.request.texts, call.result.offers, strict=True))
    if call.request.role == "query" and texts[0] not in of:
        return call.result.offers[0] == attempt.job.offer.key
    return any(of.get(text) == attempt.job.offer.key for text in texts)


def _was_met_before(schedule: Schedule, offer: ConfiguredOffer, moment: float) -> bool:
    return any(arrived < moment for arrived in _meetings(schedule, offer))


def _was_met_after(schedule: Schedule, offer: ConfiguredOffer, moment: float) -> bool:
    return any(arrived >= moment for arrived in _meetings(schedule, offer))


def _meetings(schedule: Schedule, offer: ConfiguredOffer) -> Iterator[float]:
    """When the offer got texts of a first meeting, or of a look that goes apart."""
    for attempt in schedule.world.attempts:
        texts = attempt.job.batch.texts
        if attempt.job.offer is offer and attempt.arrived_at and set(texts) <= set(PROBES):
            yield attempt.arrived_at


# Whose fault it is


def blame(schedule: Schedule) -> None:
    """A text is blamed only if a server really does not take it; and where all servers are well,
    exactly those fail that all of them refuse."""
    servers = schedule.world.servers
    bad: set[str] = set()
    shaky = False
    tempers = any(server.temper for server in servers.values())
    for server in servers.values():
        bad |= server.hates | server.poison | server.mangles
        shaky |= server.temper > 0.1
    cuts = any(server.reads < 100_000 for server in servers.values())
    for call in schedule.world.calls:
        if call.result is None:
            continue
        for position, kind, message in call.result.errors:
            text = call.request.texts[position]
            if kind == "no_offer" or text in bad or shaky or (cuts and text in LONG):
                continue
            # A broken row is not asked for again where it came from.
            if call.request.role == "query" or (kind == "bad_vector" and tempers):
                continue
            raise Broken("blame", f"text {position} of call {call.number}: {kind}, {message}")
        if _is_foreseeable(schedule, call):
            _exactly(schedule, call)


def _is_foreseeable(schedule: Schedule, call: Call) -> bool:
    servers = schedule.world.servers
    return (
        all(
            not (server.temper or server.slow or server.poison or server.mangles)
            and server.account.gone is None
            and server.account.per_minute is None
            and server.later_space is None
            and server.reads >= 100_000
            and server.space == 0
            for server in servers.values()
        )
        and all(offer.price == 0 and not offer.limits for offer in schedule.offers)
        and all(offer.is_proven_by_name for offer in schedule.offers)
        and not schedule.jumps
        and any(call.request.role in offer.serve for offer in schedule.offers)
    )


def _exactly(schedule: Schedule, call: Call) -> None:
    able = [offer for offer in schedule.offers if call.request.role in offer.serve]
    hated = frozenset.intersection(*(schedule.world.servers[offer.key].hates for offer in able))
    assert call.result is not None
    failed = {call.request.texts[error.position] for error in call.result.errors}
    hated &= {*call.request.texts}
    if call.request.role == "query":
        hated = frozenset()  # servers hate texts as they are sent, and queries are sent otherwise
        if any(offer.provider.adds_instruction for offer in able):
            return
    if failed != hated:
        raise Broken("blame", f"call {call.number}: failed {failed}, all refuse {set(hated)}")


# Counting


def _used_tokens(attempt: Attempt) -> int:
    """What an attempt is to be counted with: as the provider counts, and where it does not say, by
    the estimate. What nobody took in was held until its end: it counts as that."""
    bound = attempt.reservation.use.tokens
    if attempt.settled_step is None:
        return bound
    finished, reply = attempt.finished, attempt.reply
    if finished is None or reply is None:
        return 0
    reported = getattr(reply.outcome, "tokens", None)
    if not finished.maybe_served:
        if isinstance(finished.outcome, tuple):
            return reported if reported is not None else _likely(attempt)
        return 0
    return _likely(attempt)


def _likely(attempt: Attempt) -> int:
    """The estimate, as corrected by what the offer counted before: half of what was held."""
    return attempt.reservation.use.tokens // RESERVED_OVER_ESTIMATE


def _estimate(attempt: Attempt) -> int:
    batch = attempt.job.batch
    apart = attempt.job.offer.provider.adds_instruction
    instructions = apart * len(batch.texts) * estimate_tokens(batch.instruction or "")
    return sum(map(estimate_tokens, batch.texts)) + instructions


def _paid(attempt: Attempt, tokens: int) -> Decimal:
    use = attempt.reservation.use
    price = attempt.job.offer.price or Decimal(0)
    covered = min(tokens, use.tokens) if _grant(attempt) is not None else 0
    covered = tokens if attempt.is_covered else covered
    return price * (tokens - covered) / 1_000_000


def _grant(attempt: Attempt) -> Meter | None:
    meters = attempt.reservation.use.meters
    return next((meter for meter in meters if meter.kind in GRANTS), None)


def _was_sent(attempt: Attempt) -> bool:
    return attempt.settled_step is None or attempt.arrived_at is not None


def counts(schedule: Schedule) -> None:
    """The ledger's record of each offer against the servers'. Killed processes may leave more."""
    least: dict[str, Amount] = defaultdict(Amount)
    for attempt in schedule.world.attempts:
        tokens = _used_tokens(attempt)
        if attempt.settled_step is None and schedule.path is not None and schedule.kills:
            # Only what really happened must be there: the rest was held, and is booked in time.
            tokens = min(tokens, attempt.counted)
        paid = units(_paid(attempt, tokens))
        least[attempt.job.offer.key] += Amount(int(_was_sent(attempt)), tokens, paid)
    found: dict[str, Amount] = defaultdict(Amount)
    if schedule.path is not None:
        for line in usage(schedule.path):
            found[line.offer] += line.used + line.held
    else:
        assert isinstance(schedule.ledger, MemoryLedger)
        for key, amount in schedule.ledger.used().items():
            found[key.offer] += amount
    exact = schedule.path is None or not (schedule.kills or schedule.jumps)
    for offer in schedule.offers:
        ours, theirs = found[offer.key], least[offer.key]
        if not ours.covers(theirs) or (exact and ours != theirs):
            raise Broken("count", f"{offer.key} used {theirs}, and {ours} is counted")


# Limits


def limits(schedule: Schedule) -> None:
    by_meter: dict[Meter, list[Attempt]] = defaultdict(list)
    overall = budget_meters(schedule.budget)
    for attempt in schedule.world.attempts:
        for meter in attempt.reservation.use.meters:
            by_meter[meter].append(attempt)
        for meter in overall:
            by_meter[meter].append(attempt)
        _is_complete(schedule, attempt)
    backwards = any(jump < 0 for jump in schedule.jumps)
    # Who sleeps beyond a deadline finds its block booked, and does not know it yet.
    overslept = schedule.path is not None and sum(map(abs, schedule.jumps)) > LIMIT_SECONDS / 2
    for meter, attempts in by_meter.items():
        if meter.kind in ("minute", "day"):
            if not (backwards or overslept):
                _check_arrivals(meter, attempts)
        elif meter.kind == "flight":
            if not overslept:
                _check_flight(meter, attempts)
        else:
            _check_amounts(meter, attempts)


def _is_complete(schedule: Schedule, attempt: Attempt) -> None:
    """Every limit of the offer was asked, and a grant only while it lasts."""
    offer, use = attempt.job.offer, attempt.reservation.use
    missing = set(offer.limits) - set(use.meters)
    if missing:
        raise Broken("limit", f"{offer.key} was asked without counting {missing}")
    grants = [grant for grant in offer.grants if grant.meter in use.meters]
    for grant in grants:
        if grant.until is not None and attempt.reserved_at >= grant.until:
            raise Broken("pay", f"{offer.key}: a grant that lapsed was drawn on")
    if not grants:
        price = offer.price
        if price is None and schedule.budget.limited:
            raise Broken("pay", f"{offer.key} has no price, and was asked under a budget")
        if (price or 0) * use.tokens / 1_000_000 != use.cost:
            raise Broken("limit", f"{offer.key}: {use.tokens} tokens were held for {use.cost} USD")
    if _estimate(attempt) * LEAST > use.tokens:
        raise Broken("limit", f"{offer.key}: {use.tokens} tokens held for {_estimate(attempt)}")


def _check_amounts(meter: Meter, attempts: list[Attempt]) -> None:
    """Budgets, grants and limits by the calendar: in each period no more than is allowed, but for
    what attempts used beyond what was held for them."""
    used: dict[int, Amount] = defaultdict(Amount)
    beyond: dict[int, Amount] = defaultdict(Amount)
    for attempt in attempts:
        period, use = meter.window.held_in(attempt.reserved_at), attempt.reservation.use
        tokens = attempt.counted  # what the service bills, whatever it says
        if meter.kind in GRANTS:
            price = attempt.job.offer.price or Decimal(0)
            money, over = price * min(tokens, use.tokens), price * max(0, tokens - use.tokens)
            tokens_ = min(tokens, use.tokens)
            amount = Amount(0, tokens_, units(money / 1_000_000))
            # Without an answer it is counted by the estimate, and so it is without a count.
            lost = max(0, tokens_ - _used_tokens(attempt))
            more = Amount(0, lost, units(price * lost / 1_000_000 + over / 1_000_000))
        else:
            paid = _paid(attempt, tokens)
            known = min(use.cost, _paid(attempt, _used_tokens(attempt)))
            amount = Amount(int(attempt.arrived_at is not None), 0, units(paid))
            more = Amount(0, 0, units(max(Decimal(0), paid - known)))
        used[period] += amount
        beyond[period] += more
    for period, amount in used.items():
        part = meter.lacks(amount - beyond[period])
        if part is not None:
            where = f"{meter.kind} of {meter.account or 'all'} in period {period}"
            raise Broken("limit", f"{where}: {part} {amount}, {beyond[period]} beyond, {meter}")


def _check_arrivals(meter: Meter, attempts: list[Attempt]) -> None:
    """No service sees more than the limit in any stretch of its window, wherever that begins."""
    assert isinstance(meter.window, Rolling)
    arrived = [attempt for attempt in attempts if attempt.arrived_at is not None]
    arrived.sort(key=lambda attempt: attempt.arrived_at or 0.0)
    if meter.requests is not None:
        for first, last in zip(arrived, arrived[meter.requests :], strict=False):
            apart = (last.arrived_at or 0) - (first.arrived_at or 0)
            if apart < meter.window.seconds - 1e-3:
                said = f"{meter.requests + 1} requests in {apart:.3f} s"
                raise Broken("limit", f"{meter.account} saw {said}: {meter}")
    if meter.tokens is not None:
        _check_tokens(meter, arrived)


def _check_tokens(meter: Meter, arrived: list[Attempt]) -> None:
    assert meter.tokens is not None
    assert isinstance(meter.window, Rolling)
    # What is more than a minute allows goes alone; what goes beyond its bound is not known before.
    counted = [
        (attempt, min(attempt.counted, _used_tokens(attempt), attempt.reservation.use.tokens))
        for attempt in arrived
    ]
    counted = [(attempt, tokens) for attempt, tokens in counted if tokens]
    for place, (first, _) in enumerate(counted):
        total = 0
        for attempt, tokens in counted[place:]:
            if (attempt.arrived_at or 0) - (first.arrived_at or 0) >= meter.window.seconds - 1e-3:
                break
            total += tokens
            if total > meter.tokens and attempt is not first:
                raise Broken("limit", f"{meter.account} saw {total} tokens in a minute: {meter}")


def _check_flight(meter: Meter, attempts: list[Attempt]) -> None:
    steps = [(attempt.reserved_step, 1) for attempt in attempts]
    steps += [(attempt.ended_step, -1) for attempt in attempts if attempt.ended_step is not None]
    flying = 0
    for _, change in sorted(steps):
        flying += change
        if meter.requests is not None and flying > meter.requests:
            raise Broken("limit", f"{meter.account} had {flying} requests under way: {meter}")


# What may be paid


def pays(schedule: Schedule) -> None:
    """No dearer offer is used by a bulk call, or by a query before its time, while a cheaper one is
    merely full or limited. Judged by the offers that are never worse than that."""
    if schedule.policy is not free_first or schedule.jumps:
        return
    room = _Room(schedule)
    well = [offer for offer in schedule.offers if _is_merely_full(schedule, offer)]
    for attempt in schedule.world.attempts:
        room.note(attempt)
        role = attempt.call.request.role
        soon = attempt.reserved_at < attempt.call.began + schedule.spill_after_seconds
        if role == "document" and schedule.spill_to_paid:
            continue
        if OURS.issuperset(attempt.job.batch.texts):
            continue  # asked of the offer that was chosen, whatever became of its grant
        if role == "query" and not soon:
            continue
        tier = _tier(attempt)
        for offer in well:
            if role not in offer.serve:
                continue
            limit = room.tier(offer, attempt.reserved_at, _may_be_limited(schedule, offer, role))
            if tier > limit:
                raise Broken(
                    "pay",
                    f"call {attempt.call.number} paid {tier} at {attempt.job.offer.key}, while "
                    f"{offer.key} costs {limit} and is merely full",
                )


_INFINITE = float("inf")


def _tier(attempt: Attempt) -> tuple[int, Any]:
    offer, now = attempt.job.offer, attempt.reserved_at
    lost = [grant.lost_at(now) for grant in offer.grants if grant.meter is _grant(attempt)]
    if lost:
        return (1, lost[0])
    return (0, 0.0) if offer.price == 0 else (2, _INFINITE if offer.price is None else offer.price)


def _is_merely_full(schedule: Schedule, offer: ConfiguredOffer) -> bool:
    """Whether nothing but its limits, or too many at once, ever keeps it from any text."""
    servers = schedule.world.servers
    return (
        offer.is_proven_by_name
        and all(server.space == 0 for server in servers.values())
        and all(server.later_space is None for server in servers.values())
        and all(
            servers[other.key].is_well
            for other in schedule.offers
            if other.account == offer.account
        )
        and not any(meter.kind in ("day", "daily", "budget") for meter in offer.limits)
        and not any(text in LONG for request in schedule.jobs for text in request.texts)
    )


def _may_be_limited(schedule: Schedule, offer: ConfiguredOffer, role: str) -> bool:
    """Whether other gifts may stand in for it: it keeps to a limit, or a query is in a hurry."""
    states_one = any(meter.kind in ("minute", "flight") for meter in offer.limits)
    account = schedule.world.servers[offer.key].account
    return role == "query" or states_one or account.per_minute is not None


class _Room:
    """What grants have left, by the servers' record; and which were never near their end."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.taken: Counter[Any] = Counter()
        self.ample = (
            2 * max((sum(map(estimate_tokens, job.texts)) for job in schedule.jobs), default=0)
            + 400
        )

    def note(self, attempt: Attempt) -> None:
        meter, use = _grant(attempt), attempt.reservation.use
        if meter is not None:
            of = use.tokens if meter.kind == "grant" else units(use.credit)
            self.taken[meter.held_key(attempt.reserved_at)] += of

    def tier(self, offer: ConfiguredOffer, now: float, may_be_limited: bool) -> tuple[int, Any]:
        """The dearest that may be used instead of an offer."""
        if offer.price == 0:
            tier: tuple[int, Any] = (0, 0.0)
        else:
            lost = [
                grant.lost_at(now)
                for grant in offer.grants
                if grant.covers_at(now) and self._is_ample(grant.meter, offer, now)
            ]
            unlimited = not self.schedule.budget.limited
            if lost and unlimited and self.schedule.path is None:
                tier = (1, min(lost))
            elif unlimited and offer.price is not None:
                tier = (2, offer.price)
            else:
                return (3, 0.0)
        return (1, _INFINITE) if may_be_limited and tier < (1, _INFINITE) else tier

    def _is_ample(self, meter: Meter, offer: ConfiguredOffer, now: float) -> bool:
        """Bounds only add up here, so what has room now always had."""
        taken = self.taken[meter.held_key(now)]
        if meter.tokens is not None:
            return bool(taken + self.ample <= meter.tokens)
        ample = units((offer.price or Decimal(0)) * self.ample / 1_000_000)
        return bool(taken + ample <= (meter.money or 0))
