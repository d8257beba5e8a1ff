"""Grants, limits and prices in the router: where each token goes, and what is left alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from random import Random

import numpy as np
import pytest

from qwen_embed_plugins import BudgetExceeded, NoOfferLeft, Offer
from qwen_embed_plugins.canary import Canaries
from qwen_embed_plugins.catalogue import Catalogue, ConfiguredOffer
from qwen_embed_plugins.effects import Job
from qwen_embed_plugins.events import Event
from qwen_embed_plugins.grants import ConfiguredGrant
from qwen_embed_plugins.health import Health
from qwen_embed_plugins.ledger import MemoryLedger, Use, budget_meters
from qwen_embed_plugins.meters import Meter, in_dollars
from qwen_embed_plugins.models import Model
from qwen_embed_plugins.parity import Parity
from qwen_embed_plugins.provider import Provider, ProviderConfig
from qwen_embed_plugins.router import EmbedRequest, Router
from qwen_embed_plugins.routing import Policy, cheapest, free_first
from qwen_embed_plugins.settings import Budget
from qwen_embed_plugins.spaces import EmbeddingSpace
from qwen_embed_plugins.tariffs import Tariffs
from qwen_embed_plugins.testing import reference_vector
from qwen_embed_plugins.testing.simulation import Served, SimulatedClock, SimulatedDriver
from qwen_embed_plugins.types import Answer, EmbedResult, Fault, Role
from qwen_embed_plugins.windows import DAY, MINUTE, UTC_DAY, Ever, UnderWay

MODEL = Model("toy", dimensions=64, context_tokens=32_768, min_dimensions=8)
DAYS = 86_400.0
START = SimulatedClock().seconds
TOKENS = 100
"""What each text counts, here and at the servers."""

Respond = Callable[[Job], Served]


def text(number: int) -> str:
    """A text that is estimated at `TOKENS`."""
    return f"{number:03} ".replace("0", "o").ljust((TOKENS - 1) * 4, "x")[: (TOKENS - 1) * 4]


def texts(count: int) -> list[str]:
    return [text(1000 + number) for number in range(count)]


def good(job: Job) -> Served:
    rows = np.stack([reference_vector(text, 64) for text in job.batch.texts])
    return Served(Answer(rows, TOKENS * len(rows)), 1.0)


def offer(name: str, price: str | None = "0", **terms: object) -> ConfiguredOffer:
    found = {key: terms.pop(key) for key in ("grants", "limits", "serve") if key in terms}
    account = str(terms.pop("account", name))
    return ConfiguredOffer(
        f"{name}/toy",
        Provider(ProviderConfig(name)),
        account,
        replace(Offer("toy", "toy", max_inputs=10), **terms),  # type: ignore[arg-type]
        MODEL,
        None if price is None else Decimal(price),
        private=price == "0",
        trusted=True,
        **found,  # type: ignore[arg-type]
    )


def grant(account: str, tokens: int, ends_in_days: float | None = None) -> ConfiguredGrant:
    meter = Meter("grant", account, "", Ever(), tokens=tokens, setting="free_tokens")
    return ConfiguredGrant(meter, None if ends_in_days is None else START + ends_in_days * DAYS)


def credit(account: str, usd: str) -> ConfiguredGrant:
    money = in_dollars(Decimal(usd))
    return ConfiguredGrant(Meter("credit", account, "", Ever(), money=money, setting="free_usd"))


class World:
    def __init__(
        self,
        *offers: ConfiguredOffer,
        budget: str | None = None,
        policy: Policy = free_first,
        spill_to_paid: bool = False,
        concurrency: int = 8,
        ledger: MemoryLedger | None = None,
        clock: SimulatedClock | None = None,
        **respond: Respond,
    ) -> None:
        clock = clock or SimulatedClock()
        limits = Budget(None if budget is None else Decimal(budget))
        self.ledger = ledger or MemoryLedger(limits, clock)
        self.driver = SimulatedDriver(self._respond, self.ledger, clock)
        self.respond = respond
        self.events: list[Event] = []
        self.router = Router(
            Catalogue(MODEL, offers, {}),
            policy,
            policy,
            Health(Random(1)),
            {},
            clock,
            self.events.append,
            Parity(offers, {}, frozenset(offer.key for offer in offers)),
            Canaries(10**9),
            tariffs=Tariffs(limits.limited),
            spill_to_paid=spill_to_paid,
            concurrency=concurrency,
        )

    def _respond(self, job: Job) -> Served:
        return self.respond.get(job.offer.key.split("/")[0], good)(job)

    def embed(self, texts: list[str], role: Role = "document") -> EmbedResult:
        request = EmbedRequest(tuple(texts), role, EmbeddingSpace("toy", 64))
        return self.driver.run(lambda wake: self.router.flow(request, wake))

    @property
    def order(self) -> list[str]:
        """The offers in the order of their first requests."""
        return list(dict.fromkeys(job.offer.key.split("/")[0] for job in self.driver.jobs))


def tokens_by_offer(result: EmbedResult) -> dict[str, int]:
    found: dict[str, int] = {}
    for attempt in result.attempts:
        name = attempt.offer.split("/")[0]
        found[name] = found.get(name, 0) + attempt.tokens
    return found


def stacked() -> list[ConfiguredOffer]:
    return [
        offer("paid", "1"),
        offer("late", "5", grants=(grant("late", 5_000, 30),)),
        offer("never", "5", grants=(grant("never", 10_000),)),
        offer("soon", "5", grants=(grant("soon", 5_000, 10),)),
        offer("later", "5", grants=(grant("later", 5_000, 20),)),
    ]


def test_what_lapses_first_is_spent_first_and_then_the_cheapest_is_paid() -> None:
    world = World(*stacked())
    result = world.embed(texts(300))
    assert not result.errors
    assert world.order == ["soon", "later", "late", "never", "paid"]
    used = tokens_by_offer(result)
    assert sum(used.values()) == 30_000
    # A text is reserved at twice its estimate: as much may be left in each.
    for name, given in {"soon": 5_000, "later": 5_000, "late": 5_000, "never": 10_000}.items():
        assert given - 2 * TOKENS <= used[name] <= given
    assert result.cost == used["paid"] * Decimal("0.000001")
    assert world.ledger.spent == result.cost


def test_what_never_costs_anything_comes_before_any_grant() -> None:
    world = World(*stacked(), offer("home"))
    result = world.embed(texts(300))
    assert world.order == ["home"]
    assert result.cost == 0


def test_a_grant_is_tried_again_when_it_has_more() -> None:
    world = World(offer("given", "5", grants=(grant("given", 1_000),)), offer("paid", "1"))
    world.embed(texts(20))
    assert world.order == ["given", "paid"]
    world.driver.jobs.clear()
    meter = grant("given", 1_000).meter
    world.ledger._used[meter.held_key(START)] -= replace(
        world.ledger._used[meter.held_key(START)], requests=0, money=0
    )
    world.embed(["a"])
    assert world.order == ["paid"], "it was refused a moment ago"
    world.driver.clock.seconds += 61
    world.driver.jobs.clear()
    world.embed(["b"])
    assert world.order == ["given"]


def test_a_grant_that_lapses_in_the_middle_of_a_call_is_not_used_after() -> None:
    ends = (5.5) / DAYS
    world = World(
        offer("given", "5", grants=(grant("given", 10**9, ends),), max_concurrency=1),
        offer("paid", "1"),
    )
    result = world.embed(texts(100))
    used = tokens_by_offer(result)
    assert used["given"] == 6 * 10 * TOKENS, "one batch a second, the last begun before the end"
    assert used["paid"] == 4 * 10 * TOKENS
    assert result.cost == used["paid"] * Decimal("0.000001")


def test_after_its_grant_an_offer_is_asked_at_its_price() -> None:
    world = World(
        offer("given", "0.5", grants=(grant("given", 2_000),)), offer("dearer", "1"), budget="1"
    )
    result = world.embed(texts(100))
    assert world.order == ["given"]
    paid = sum(attempt.tokens for attempt in result.attempts if attempt.cost)
    assert 8_000 <= paid <= 8_200
    assert result.cost == paid * Decimal("0.0000005")


def test_a_credit_is_spent_by_the_price() -> None:
    world = World(
        offer("credit", "10", grants=(credit("credit", "0.05"),)), offer("paid", "1"), budget="0"
    )
    with pytest.raises(BudgetExceeded):
        World(offer("paid", "1"), budget="0").embed(["a"])
    result = world.embed(texts(100))
    used = tokens_by_offer(result)
    assert 4_800 <= used["credit"] <= 5_000
    assert result.cost == 0
    assert len(result.errors) == 100 - used["credit"] // TOKENS


def test_two_offers_of_an_account_share_its_grant() -> None:
    shared = grant("team", 2_000)
    one = offer("one", "5", account="team", grants=(shared,))
    two = offer("two", "5", account="team", grants=(shared,))
    result = World(one, two, offer("paid", "1")).embed(texts(100))
    used = tokens_by_offer(result)
    assert used.get("one", 0) + used.get("two", 0) <= 2_000
    assert used["paid"] >= 8_000


def test_an_offer_without_a_price_serves_while_its_grant_lasts() -> None:
    world = World(offer("given", None, grants=(grant("given", 2_000),)), budget="1")
    result = world.embed(texts(100))
    assert 1_800 <= tokens_by_offer(result)["given"] <= 2_000
    assert {error.kind for error in result.errors} == {"no_offer"}
    with pytest.raises(NoOfferLeft, match="its grant is spent or over") as caught:
        world.embed(texts(100))
    assert caught.value.retry_at is not None


def test_an_offer_without_a_price_keeps_to_a_budget_of_its_provider_after_its_grant() -> None:
    limit = Meter("budget", "given", "", UTC_DAY, money=0, setting="usd_per_day")
    given = offer("given", None, grants=(grant("given", 2_000),), limits=(limit,))
    result = World(given).embed(texts(100))
    assert 1_800 <= tokens_by_offer(result)["given"] <= 2_000
    assert {error.kind for error in result.errors} == {"no_offer"}


def test_a_server_that_counts_more_than_thought_is_paid_for_what_is_beyond() -> None:
    def dear(job: Job) -> Served:
        served = good(job)
        assert isinstance(served.outcome, Answer)
        return Served(served.outcome._replace(tokens=5 * TOKENS), 1.0)

    world = World(offer("given", "1", grants=(grant("given", 600),)), given=dear)
    result = world.embed([text(1)])
    assert result.usage.tokens == 5 * TOKENS
    assert result.cost == 0, "the grant had room for what nobody had thought of"
    assert {key.kind: used.tokens for key, used in world.ledger._used.items()} == {
        "use": 500,
        "budget": 500,
        "grant": 500,
    }
    late = World(offer("given", "1", grants=(grant("given", 300),)), given=dear)
    assert late.embed([text(1)]).cost == Decimal("0.000001") * 3 * TOKENS, "two of five were held"


def test_a_server_that_counts_a_thousand_for_each_text_is_soon_believed() -> None:
    def thousand(job: Job) -> Served:
        served = good(job)
        assert isinstance(served.outcome, Answer)
        return Served(served.outcome._replace(tokens=1_000 * len(job.batch.texts)), 1.0)

    offers = [
        offer("soon", "5", grants=(grant("soon", 200_000, 1),)),
        offer("late", "5", grants=(grant("late", 200_000, 2),)),
        offer("paid", "1"),
    ]
    names = ["soon", "late", "paid"]
    world = World(*offers, soon=thousand, late=thousand, paid=thousand)
    result = world.embed(texts(500))
    used = tokens_by_offer(result)
    assert world.order == names
    assert 190_000 < used["soon"] <= 200_000
    assert 190_000 < used["late"] <= 200_000
    assert result.cost == used["paid"] * Decimal("0.000001")


@pytest.mark.parametrize("name", ["usd_per_day", "usd_total"])
def test_a_budget_of_a_provider_keeps_out_no_other(name: str) -> None:
    window = UTC_DAY if name == "usd_per_day" else Ever()
    limit = Meter(
        "budget", "near", "", window, money=in_dollars(Decimal("0.002")), setting=name,
        table="[providers.near]",
    )  # fmt: skip
    world = World(offer("near", "1", limits=(limit,)), offer("far", "2"))
    result = world.embed(texts(100))
    used = tokens_by_offer(result)
    assert 1_800 <= used["near"] <= 2_000
    assert used["far"] + used["near"] == 10_000
    alone = World(offer("near", "1", limits=(limit,)))
    with pytest.raises(BudgetExceeded, match=rf"{name} = 0.002 .* \[providers.near\]"):
        list(map(alone.embed, [texts(100)] * 5))
    assert Decimal("0.0018") <= alone.ledger.spent <= Decimal("0.002")


def test_fewer_requests_are_under_way_when_answers_become_slow() -> None:
    at_once: list[tuple[int, int]] = []

    def slower(job: Job) -> Served:
        allowed = world.router.pacing.places("near/toy", 16)
        at_once.append((sum(world.router.places.taken().values()), allowed))
        return replace(good(job), seconds=1.0 if len(at_once) < 60 else 20.0)

    world = World(offer("near"), concurrency=16, near=slower)
    world.embed([f"{text(1000)} {number}" for number in range(2500)])
    assert max(taken for taken, _ in at_once) == 16
    assert min(allowed for _, allowed in at_once) <= 4
    assert min(taken for taken, _ in at_once[60:230]) <= 4


def test_a_query_ends_though_others_keep_all_places() -> None:
    limit = Meter("flight", "near", "", UnderWay(), requests=1, setting="max_concurrency")
    world = World(offer("near", limits=(limit,)))
    world.ledger.reserve(Use("near", "near/toy", 1, Decimal(0), meters=(limit,)))
    with pytest.raises(NoOfferLeft, match="as many as max_concurrency allows"):
        world.embed(texts(1), "query")
    assert 50 <= world.driver.clock.seconds - START <= 60


def test_many_queries_go_on_for_as_long_as_answers_come() -> None:
    limit = Meter("minute", "near", "", MINUTE, requests=1, setting="requests_per_minute")
    world = World(offer("near", limits=(limit,)))
    world.router.timeout_seconds = 70.0
    assert not world.embed(texts(50), "query").errors
    assert world.driver.clock.seconds - START > 200


def test_the_minute_holds_for_routers_that_share_a_ledger() -> None:
    limit = Meter("minute", "slow", "", MINUTE, requests=20, setting="requests_per_minute")
    day = Meter("day", "slow", "", DAY, requests=50, setting="requests_per_day")
    clock = SimulatedClock()
    ledger = MemoryLedger(Budget(None), clock)
    arrivals: list[float] = []

    def counting(job: Job) -> Served:
        arrivals.append(clock.seconds)
        if sum(moment > clock.seconds - 60 for moment in arrivals) > 20:
            return Served(Fault("rate_limited", "the 21st"))
        assert sum(moment > clock.seconds - DAYS for moment in arrivals) <= 50, "the 51st"
        return good(job)

    worlds = [
        World(offer("slow", limits=(day, limit)), ledger=ledger, clock=clock, slow=counting)
        for _ in range(4)
    ]
    served, refusals = 0, list[str]()
    for number in range(30):
        try:
            result = worlds[number % 4].embed(texts(60))
        except NoOfferLeft as error:
            refusals.append(str(error))
            clock.seconds = max(clock.seconds, error.retry_at or 0)
        else:
            served += 60 - len(result.errors)
    assert len(arrivals) > 100, "the days went on"
    assert all("requests_per_day = 50 is used up until" in refusal for refusal in refusals)
    assert served == len(arrivals) * 10
    for first, last in zip(arrivals, arrivals[20:], strict=False):
        assert last - first >= 60
    for first, last in zip(arrivals, arrivals[50:], strict=False):
        assert last - first >= DAYS


def test_a_limit_under_way_holds_for_routers_that_share_a_ledger() -> None:
    limit = Meter("flight", "narrow", "", UnderWay(), requests=2, setting="max_concurrency")
    world = World(offer("narrow", limits=(limit,)))
    began = world.driver.clock()
    assert not world.embed(texts(100)).errors
    assert world.driver.clock() - began >= 5.0, "two at a time, a second each"


def test_a_batch_is_no_larger_than_a_minute_allows() -> None:
    limit = Meter("minute", "small", "", MINUTE, tokens=500, setting="tokens_per_minute")
    world = World(offer("small", limits=(limit,)))
    assert not world.embed(texts(12)).errors
    assert {len(job.batch.texts) for job in world.driver.jobs} == {2}
    big = world.embed(["y" * 4_000])
    assert not big.errors, "a text that no minute has room for goes alone"


# Waiting, spilling and spreading


def test_a_bulk_job_with_a_paid_key_and_a_slow_free_server_costs_nothing() -> None:
    slow = offer("home", max_concurrency=1)
    world = World(slow, offer("paid", "0.01"), home=lambda job: replace(good(job), seconds=30.0))
    result = world.embed(texts(200))
    assert world.order == ["home"]
    assert result.cost == 0
    assert not result.errors


def test_a_bulk_job_spreads_over_what_costs_nothing() -> None:
    free = [offer(name, max_concurrency=1) for name in ("one", "two", "three")]
    world = World(*free, offer("paid", "1"), offer("given", "1", grants=(grant("given", 10**6),)))
    began = world.driver.clock()
    result = world.embed(texts(300))
    assert world.order == ["one", "two", "three"]
    assert world.driver.clock() - began == pytest.approx(10.0), "30 batches, three at a time"
    assert result.cost == 0


def test_a_grant_stands_in_for_one_that_keeps_to_a_limit_and_money_does_not() -> None:
    limit = Meter("minute", "soon", "", MINUTE, requests=2, setting="requests_per_minute")
    soon = offer("soon", "5", grants=(grant("soon", 10**6, 1),), limits=(limit,))
    late = offer("late", "5", grants=(grant("late", 10**6, 9),))
    result = World(soon, late, offer("paid", "1")).embed(texts(100))
    assert tokens_by_offer(result) == {"soon": 2_000, "late": 8_000}
    world = World(soon, offer("paid", "1"))
    result = world.embed(texts(100))
    assert result.cost == 0
    assert world.order == ["soon"]
    assert world.driver.clock() - START > 4 * 60


def test_with_leave_to_pay_a_bulk_job_does_not_wait() -> None:
    limit = Meter("minute", "soon", "", MINUTE, requests=2, setting="requests_per_minute")
    soon = offer("soon", "5", grants=(grant("soon", 10**6, 1),), limits=(limit,))
    world = World(soon, offer("paid", "1"), spill_to_paid=True)
    result = world.embed(texts(100))
    assert tokens_by_offer(result) == {"soon": 2_000, "paid": 8_000}
    assert world.driver.clock() - START < 60


def test_a_query_waits_two_seconds_for_what_is_cheaper() -> None:
    limit = Meter("minute", "free", "", MINUTE, requests=1, setting="requests_per_minute")
    world = World(offer("free", limits=(limit,)), offer("paid", "1"))
    assert world.embed(["a"], "query").cost == 0
    began = world.driver.clock()
    assert world.embed(["b"], "query").cost > 0
    assert world.driver.clock() - began == pytest.approx(3.0), "two to wait and one to answer"


def test_an_offer_serves_only_the_roles_it_is_for() -> None:
    world = World(offer("queries", serve=("query",)), offer("both", "1"))
    world.embed(texts(20))
    assert world.order == ["both"]
    world.driver.jobs.clear()
    world.embed(["a"], "query")
    assert world.order == ["queries"]
    alone = World(offer("queries", serve=("query",)))
    with pytest.raises(NoOfferLeft, match='serves no document: serve = "query"'):
        alone.embed(["a"])


def test_the_cheapest_policy_knows_no_ends() -> None:
    given = [
        offer("late", "5", grants=(grant("late", 10**6, 9),)),
        offer("soon", "5", grants=(grant("soon", 10**6, 1),)),
    ]
    world = World(*given, offer("paid", "1"), policy=cheapest)
    world.embed(texts(5))
    assert world.order == ["late"]


def test_budgets_are_checked_before_anything_else() -> None:
    day, total = budget_meters(Budget(Decimal("0.5"), Decimal(7)))
    assert (day.money, total.money) == (5 * 10**11, 7 * 10**12)


def test_each_offer_that_fails_is_named_with_when_to_try_again() -> None:
    def failing(job: Job) -> Served:
        return Served(Fault("unavailable", "down for repair", retry_after_seconds=600))

    def keyless(job: Job) -> Served:
        return Served(Fault("bad_key", "who are you", scope="account"))

    world = World(offer("one"), offer("two"), one=failing, two=keyless)
    with pytest.raises(NoOfferLeft) as caught:
        world.embed(["a"])
    error = caught.value
    assert error.reasons["one/toy"] == "down for repair"
    assert "who are you" in error.reasons["two/toy"]
    assert 600 <= error.again["one/toy"] - START <= 1000
    assert set(error.again) == {"one/toy", "two/toy"}
    assert error.retry_at == min(error.again.values())
    assert "one/toy: down for repair (again at 2027-01-15 08:1" in str(error)


def test_after_an_outage_a_single_request_goes_ahead() -> None:
    clock = SimulatedClock()
    moments: list[float] = []

    def recovering(job: Job) -> Served:
        moments.append(clock.seconds)
        if clock.seconds < START + 3:
            return Served(Fault("unavailable", "starting up", retry_after_seconds=3.0), 0.1)
        return good(job)

    world = World(offer("home"), clock=clock, home=recovering)
    assert not world.embed(texts(200)).errors
    after = [moment for moment in moments if moment >= START + 3]
    assert len(moments) - len(after) == 8, "before anybody knew"
    assert after.count(after[0]) == 1
    assert after.count(after[1]) == 8


def test_what_a_provider_says_that_it_took_is_booked() -> None:
    def telling(job: Job) -> Served:
        served = good(job)
        assert isinstance(served.outcome, Answer)
        return Served(served.outcome._replace(cost=Decimal("0.25")), 1.0)

    world = World(offer("gateway", "1"), gateway=telling)
    assert world.embed(texts(1)).cost == Decimal("0.25") == world.ledger.spent
