"""The flow of a call under a simulated clock: what it sends, and what becomes of each text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal
from random import Random
from typing import Any

import numpy as np
import pytest

from qwen_embed_plugins.call import KNOWN_GOOD
from qwen_embed_plugins.canary import Canaries
from qwen_embed_plugins.catalogue import Catalogue, ConfiguredOffer
from qwen_embed_plugins.effects import Job, Learn
from qwen_embed_plugins.errors import BudgetExceeded, NoOfferLeft
from qwen_embed_plugins.events import Event, OfferPaused, VerdictChanged
from qwen_embed_plugins.grants import ConfiguredGrant
from qwen_embed_plugins.health import Health
from qwen_embed_plugins.ledger import MemoryLedger, Reservation, Use
from qwen_embed_plugins.meters import Meter, Refused
from qwen_embed_plugins.models import Model, qwen3_query
from qwen_embed_plugins.offers import Offer
from qwen_embed_plugins.parity import PROBES, Parity
from qwen_embed_plugins.provider import Provider, ProviderConfig
from qwen_embed_plugins.router import EmbedRequest, Router
from qwen_embed_plugins.routing import free_first
from qwen_embed_plugins.settings import Budget
from qwen_embed_plugins.spaces import EmbeddingSpace
from qwen_embed_plugins.tariffs import Tariffs
from qwen_embed_plugins.testing import reference_vector
from qwen_embed_plugins.testing.simulation import Served, SimulatedDriver
from qwen_embed_plugins.types import Answer, EmbedResult, Fault, Role
from qwen_embed_plugins.verdicts import Verdict
from qwen_embed_plugins.windows import Ever


class ReadsAll(Provider):
    never_cuts = True


PROBE_ROWS = np.stack([reference_vector(text, 64) for text in PROBES])

MODEL = Model("toy", dimensions=64, context_tokens=8192, min_dimensions=8, format_query=qwen3_query)


def offer(
    name: str, price: str = "0", max_inputs: int = 8, max_input_tokens: int | None = None
) -> ConfiguredOffer:
    terms = Offer("toy", "toy", max_inputs=max_inputs, max_input_tokens=max_input_tokens)
    provider = ReadsAll(ProviderConfig(name))
    return ConfiguredOffer(
        f"{name}/toy", provider, name, terms, MODEL, Decimal(price), private=price == "0"
    )


def vectors(texts: Sequence[str]) -> Answer:
    return Answer(np.stack([reference_vector(text, 64) for text in texts]), tokens=len(texts))


def good(job: Job) -> Served:
    return Served(vectors(job.batch.texts))


class World:
    """A router over some offers, with servers that are functions."""

    def __init__(
        self,
        *offers: ConfiguredOffer,
        budget: Budget | None = None,
        spill_to_paid: bool = False,
        **respond: Callable[[Job], Served],
    ) -> None:
        self.respond = respond
        self.driver = SimulatedDriver(self._respond, MemoryLedger(Budget(), lambda: 0.0))
        self.ledger = MemoryLedger(budget or Budget(None), self.driver.clock)
        self.driver.ledger = self.ledger
        self.events: list[Event] = []
        self.router = Router(
            catalogue=Catalogue(MODEL, offers, {}),
            policy=free_first,
            query_policy=free_first,
            health=Health(Random(1)),
            capabilities={},
            now=self.driver.clock,
            emit=self.events.append,
            parity=Parity(offers),
            canaries=Canaries(10**9),
            spill_to_paid=spill_to_paid,
        )

    def _respond(self, job: Job) -> Served:
        return self.respond.get(job.offer.account, good)(job)

    def embed(
        self, texts: Sequence[str], role: Role = "document", dimensions: int = 64
    ) -> EmbedResult:
        space = EmbeddingSpace("toy", dimensions)
        request = EmbedRequest(tuple(texts), role, space, "Find it" if role == "query" else None)
        return self.driver.run(lambda wake: self.router.flow(request, wake))

    def sent(self, account: str) -> list[list[str]]:
        batches = [job.batch.texts for job in self.driver.jobs if job.offer.account == account]
        return [list(batch) for batch in batches if not set(batch) & set(PROBES) - {KNOWN_GOOD}]


def texts(count: int) -> list[str]:
    return [f"text {number}" for number in range(count)]


def refusing(*bad: str, message: str = "refused") -> Callable[[Job], Served]:
    def respond(job: Job) -> Served:
        if set(bad) & set(job.batch.texts):
            return Served(Fault("bad_input", message))
        return good(job)

    return respond


def test_results_stand_in_the_order_of_the_texts() -> None:
    world = World(offer("a"), a=lambda job: Served(vectors(job.batch.texts), 1 / (job.id + 1)))
    result = world.embed(texts(50))
    expected = np.stack([reference_vector(text, 64) for text in texts(50)])
    assert np.allclose(result.vectors, expected, atol=1e-6)
    assert [len(batch) for batch in world.sent("a")] == [8] * 6 + [2]
    assert result.offers == ("a/toy",) * 50
    assert result.usage.requests == 7


def test_batches_run_at_the_same_time_up_to_the_limit() -> None:
    world = World(offer("a"), a=lambda job: Served(vectors(job.batch.texts), 1.0))
    began = world.driver.clock()
    world.embed(texts(128))
    assert world.driver.clock() - began == pytest.approx(2.0)


def test_shortened_vectors_are_the_prefix_normalised_again() -> None:
    result = World(offer("a")).embed(["x"], dimensions=16)
    prefix = reference_vector("x", 64)[:16]
    assert np.allclose(result.vectors[0], prefix / np.linalg.norm(prefix), atol=1e-6)


def test_only_queries_carry_the_instruction() -> None:
    world = World(offer("a"))
    world.embed(["x"], role="query")
    world.embed(["x"])
    assert world.sent("a") == [["Instruct: Find it\nQuery:x"], ["x"]]


@pytest.mark.parametrize("place", [0, 3, 7])
def test_one_bad_text_is_found_within_two_log_n_requests_more(place: int) -> None:
    world = World(offer("a"), a=refusing(f"text {place}"))
    result = world.embed(texts(8))
    assert [error[:2] for error in result.errors] == [(place, "bad_input")]
    assert "refused" in result.errors[0].message
    assert np.isfinite(np.delete(result.vectors, place, axis=0)).all()
    assert np.isnan(result.vectors[place]).all()
    assert len(world.sent("a")) <= 1 + 2 * 3
    assert [KNOWN_GOOD] not in world.sent("a")


def test_a_text_that_one_offer_refuses_goes_to_another() -> None:
    world = World(offer("a"), offer("b"), a=refusing("text 2"))
    result = world.embed(texts(8))
    assert not result.errors
    assert result.offers[2] == "b/toy"


def test_an_offer_that_refuses_everything_is_at_fault_and_no_text_is() -> None:
    wrong_model = Fault("bad_input", "no such model")
    world = World(offer("a"), a=lambda job: Served(wrong_model))
    with pytest.raises(NoOfferLeft) as caught:
        world.embed(texts(1000))
    assert "no such model" in caught.value.reasons["a/toy"]
    assert caught.value.retry_at is not None
    # Eight batches were out when it showed: each was halved and asked for a probe, once.
    assert len(world.driver.jobs) <= 8 * 4


def test_with_another_offer_nothing_is_lost_when_one_refuses_everything() -> None:
    world = World(offer("a"), offer("b"), a=lambda job: Served(Fault("bad_input", "no")))
    result = world.embed(texts(100))
    assert not result.errors
    assert set(result.offers) == {"b/toy"}


def test_many_bad_texts_among_good_ones() -> None:
    bad = {f"text {number}" for number in range(0, 64, 5)}
    result = World(offer("a", max_inputs=64), a=refusing(*bad)).embed(texts(64))
    assert {error.position for error in result.errors} == set(range(0, 64, 5))


def test_a_lone_refused_text_is_blamed_only_after_the_probe_passed() -> None:
    world = World(offer("a"), a=refusing("bad"))
    result = world.embed(["bad"])
    assert result.errors[0].kind == "bad_input"
    assert world.sent("a") == [["bad"], [KNOWN_GOOD]]


def test_the_text_that_a_provider_names_is_set_apart_at_once() -> None:
    def respond(job: Job) -> Served:
        if "text 5" in job.batch.texts:
            place = list(job.batch.texts).index("text 5")
            return Served(Fault("bad_input", "this one", text_index=place))
        return good(job)

    world = World(offer("a"), a=respond)
    result = world.embed(texts(8))
    assert [error.position for error in result.errors] == [5]
    assert len(world.sent("a")) == 3


def test_an_outage_moves_the_work_to_another_offer() -> None:
    world = World(
        offer("a"), offer("b", "0.01"), a=lambda job: Served(Fault("unavailable", "down"))
    )
    result = world.embed(texts(20))
    assert not result.errors
    assert set(result.offers) == {"b/toy"}


def test_an_outage_of_all_offers_ends_soon_and_names_each() -> None:
    world = World(offer("a"), a=lambda job: Served(Fault("unavailable", "down")))
    began = world.driver.clock()
    with pytest.raises(NoOfferLeft, match="a/toy: down"):
        world.embed(texts(20))
    assert world.driver.clock() - began < 30


def test_a_short_outage_is_waited_for() -> None:
    answers = iter([Served(Fault("unavailable", "restarting"))])
    world = World(offer("a"), a=lambda job: next(answers, None) or good(job))
    assert not world.embed(["x"]).errors


def test_a_rate_limit_is_waited_for_as_told() -> None:
    answers = iter([Served(Fault("rate_limited", "slow down", retry_after_seconds=30))])
    world = World(offer("a"), a=lambda job: next(answers, None) or good(job))
    began = world.driver.clock()
    assert not world.embed(["x"]).errors
    assert world.driver.clock() - began >= 30


def test_endless_rate_limits_end_the_call() -> None:
    limited = Fault("rate_limited", "slow down", retry_after_seconds=1)
    with pytest.raises(NoOfferLeft, match="slow down"):
        World(offer("a"), a=lambda job: Served(limited)).embed(["x"])


def test_bulk_work_waits_for_free_capacity_rather_than_pay() -> None:
    answers = iter([Served(Fault("rate_limited", "slow", retry_after_seconds=20))])
    world = World(offer("a"), offer("b", "1"), a=lambda job: next(answers, None) or good(job))
    assert world.embed(["x"]).cost == 0
    assert world.sent("b") == []


@pytest.mark.parametrize("seconds", [1, 3600])
def test_bulk_work_does_not_pay_however_long_or_often_it_is_limited(seconds: float) -> None:
    limited = Served(Fault("rate_limited", "slow", retry_after_seconds=seconds))
    world = World(offer("a"), offer("b", "1"), a=lambda job: limited)
    with pytest.raises(NoOfferLeft, match="a/toy: slow") as caught:
        world.embed(texts(20))
    assert caught.value.retry_at is not None
    assert world.ledger.spent == 0


def test_bulk_work_pays_for_a_limit_when_told_to() -> None:
    limited = Served(Fault("rate_limited", "slow", retry_after_seconds=3600))
    world = World(offer("a"), offer("b", "1"), a=lambda job: limited, spill_to_paid=True)
    assert set(world.embed(texts(20)).offers) == {"b/toy"}


def test_a_query_pays_more_after_waiting_a_little() -> None:
    limited = Served(Fault("rate_limited", "slow", retry_after_seconds=20))
    world = World(offer("a"), offer("b", "1"), a=lambda job: limited)
    began = world.driver.clock()
    assert world.embed(["x"], role="query").offers == ("b/toy",)
    assert world.driver.clock() - began == pytest.approx(2.0, abs=0.1)


def test_a_bad_key_takes_out_the_account_and_is_not_asked_again() -> None:
    wrong = Served(Fault("bad_key", "HTTP 401", scope="account"))
    world = World(offer("a"), offer("b"), a=lambda job: wrong)
    assert set(world.embed(["x"]).offers) == {"b/toy"}
    assert set(world.embed(["y"]).offers) == {"b/toy"}
    assert [job.offer.account for job in world.driver.jobs].count("a") == 1
    paused = [event for event in world.events if isinstance(event, OfferPaused)]
    assert [(event.offer, event.kind) for event in paused] == [("a", "bad_key")]


def with_row(text: str, row: float) -> Callable[[Job], Served]:
    def respond(job: Job) -> Served:
        matrix = vectors(job.batch.texts).vectors
        for number, sent in enumerate(job.batch.texts):
            if sent == text:
                matrix[number] = row
        return Served(Answer(matrix, tokens=1))

    return respond


@pytest.mark.parametrize("row", [np.nan, np.inf, 0.0])
def test_a_bad_row_goes_to_another_offer_and_its_neighbours_are_kept(row: float) -> None:
    world = World(offer("a"), offer("b"), a=with_row("text 3", row))
    result = world.embed(texts(8))
    assert not result.errors
    assert np.isfinite(result.vectors).all()
    assert result.offers.count("b/toy") == 1
    assert world.sent("b") == [["text 3"]]


def test_a_bad_row_without_another_offer_is_an_error_by_position() -> None:
    result = World(offer("a"), a=with_row("text 3", np.nan)).embed(texts(8))
    assert [error[:2] for error in result.errors] == [(3, "bad_vector")]


@pytest.mark.parametrize(
    ("shape", "said"),
    [((7, 64), "7 vectors"), ((9, 64), "9 vectors"), ((8, 63), "63 numbers"), ((8,), "vectors")],
)
def test_a_wrong_shape_is_never_taken(shape: tuple[int, ...], said: str) -> None:
    wrong = Served(Answer(np.ones(shape, np.float32)))
    world = World(offer("a"), a=lambda job: wrong)
    with pytest.raises(NoOfferLeft, match=said):
        world.embed(texts(8))


def test_zero_padding_is_seen() -> None:
    def padded(job: Job) -> Served:
        matrix = vectors(job.batch.texts).vectors
        matrix[:, 16:] = 0
        return Served(Answer(matrix))

    with pytest.raises(NoOfferLeft, match="padded"):
        World(offer("a"), a=padded).embed(texts(8))


def test_a_named_limit_is_learnt_and_the_texts_are_sent_again_in_time() -> None:
    def respond(job: Job) -> Served:
        if len(job.batch.texts) > 3:
            return Served(Fault("too_large", "at most 3", limit=3))
        return good(job)

    world = World(offer("a"), a=respond)
    assert not world.embed(texts(20)).errors
    assert world.driver.learnt[0] == Learn(
        world.router.catalogue.offers[0].endpoint, "max_inputs", "3"
    )
    before = len(world.driver.jobs)
    world.embed(texts(6))
    assert [len(job.batch.texts) for job in world.driver.jobs[before:]] == [3, 3]


def test_an_unnamed_size_limit_is_met_by_halving() -> None:
    def respond(job: Job) -> Served:
        if len(job.batch.texts) > 2:
            return Served(Fault("too_large", "request too large"))
        return good(job)

    assert not World(offer("a"), a=respond).embed(texts(20)).errors


def test_a_text_over_an_offers_limit_goes_to_one_that_takes_it() -> None:
    long_text = "word " * 2000
    world = World(
        offer("small", max_input_tokens=512),
        offer("large", max_input_tokens=8192),
        small=refusing(long_text),
    )
    result = world.embed(["short", long_text, "brief"])
    assert result.offers == ("small/toy", "large/toy", "small/toy")
    assert world.sent("small") == [["short", "brief"]]


def test_an_estimate_alone_never_refuses() -> None:
    world = World(offer("small", max_input_tokens=512))
    assert not world.embed(["word " * 2000]).errors


def test_refused_base64_is_learnt_even_with_several_batches_out() -> None:
    def respond(job: Job) -> Served:
        if job.batch.encoding == "base64":
            return Served(Fault("bad_input", "encoding_format", asks_for_floats=True))
        return good(job)

    world = World(offer("a"), a=respond)
    assert not world.embed(texts(64)).errors


def test_a_text_that_makes_the_server_fail_is_found() -> None:
    def respond(job: Job) -> Served:
        if "text 5" in job.batch.texts:
            return Served(Fault("unavailable", "HTTP 500"))
        return good(job)

    result = World(offer("a"), a=respond).embed(texts(24))
    assert [error.position for error in result.errors] == [5]
    assert np.isfinite(np.delete(result.vectors, 5, axis=0)).all()


def test_a_budget_stops_before_the_request() -> None:
    world = World(offer("a", "1000000"), budget=Budget(Decimal("5")))
    with pytest.raises(BudgetExceeded, match="usd_per_day = 5"):
        world.embed(["a fairly long text of more than a few tokens"])
    assert world.driver.jobs == []


def test_spending_is_settled_to_what_was_reported() -> None:
    world = World(offer("a", "1000000"), budget=Budget(Decimal("500")))
    result = world.embed(texts(8))
    assert result.cost == Decimal(8)
    assert world.ledger.spent == Decimal(8)
    assert world.ledger.reserved == 0


def test_a_request_that_was_perhaps_served_is_counted() -> None:
    lost = Served(Fault("unavailable", "timed out"), maybe_served=True)
    world = World(offer("a", "1"), a=lambda job: lost)
    with pytest.raises(NoOfferLeft):
        world.embed(["x"])
    assert world.ledger.spent > 0


def test_a_vector_given_to_two_texts_is_asked_for_again_alone() -> None:
    def respond(job: Job) -> Served:
        matrix = vectors(job.batch.texts).vectors
        matrix[-1] = matrix[0]
        return Served(Answer(matrix))

    world = World(offer("a"), a=respond)
    result = world.embed(texts(8))
    expected = np.stack([reference_vector(text, 64) for text in texts(8)])
    assert np.allclose(result.vectors, expected, atol=1e-6)
    assert sorted(world.sent("a")[1:]) == [["text 0"], ["text 7"]]


def other_space(job: Job) -> Served:
    rows = [reference_vector(text, 64, seed=1) for text in job.batch.texts]
    return Served(Answer(np.stack(rows), tokens=1))


def noisy(job: Job) -> Served:
    matrix = vectors(job.batch.texts).vectors
    return Served(Answer(matrix + 0.3 * reference_vector("noise", 64), tokens=1))


def test_an_offer_alone_is_not_asked_to_introduce_itself() -> None:
    world = World(offer("a"))
    world.embed(["x"])
    assert len(world.driver.jobs) == 1


def test_offers_of_a_space_are_introduced_once_before_they_serve() -> None:
    failing = iter([Served(Fault("unavailable", "down"))] * 3)
    answers = iter([good, good])

    def first(job: Job) -> Served:
        return next(answers, lambda job: next(failing, None) or good(job))(job)

    world = World(offer("a"), offer("b"), a=first)
    world.embed(["x"])
    world.embed(["y"])
    asked = [(job.offer.account, tuple(job.batch.texts)) for job in world.driver.jobs]
    assert [account for account, sent in asked if sent == PROBES] == ["a", "b"]
    assert asked.index(("b", PROBES)) < asked.index(("b", ("y",)))


@pytest.mark.parametrize("max_inputs", [1, 3])
def test_probes_keep_to_an_offers_limit(max_inputs: int) -> None:
    def respond(job: Job) -> Served:
        if len(job.batch.texts) > 2:
            return Served(Fault("too_large", "too many"))
        return good(job)

    world = World(offer("a", max_inputs=max_inputs), offer("b"), a=respond)
    assert set(world.embed(["x"]).offers) == {"a/toy"}


def test_an_offer_of_another_space_is_never_served_not_even_on_failover() -> None:
    calls = iter([good, good])

    def dies(job: Job) -> Served:
        return next(calls, lambda job: Served(Fault("unavailable", "down")))(job)

    world = World(offer("a"), offer("b"), a=dies, b=other_space)
    assert set(world.embed(["x"]).offers) == {"a/toy"}
    with pytest.raises(NoOfferLeft, match=r"b/toy: its vectors are not those of a/toy: cosine"):
        world.embed(["y"])
    changed = [event for event in world.events if isinstance(event, VerdictChanged)]
    assert [(event.offer, event.serves) for event in changed] == [("b/toy", False)]


def test_an_offer_that_differs_a_little_serves_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World(offer("a"), offer("b"), a=refusing("x"), b=noisy)
    assert world.embed(["x", "y"]).offers == ("b/toy", "a/toy")
    assert "b/toy: its vectors are not those of a/toy: cosine 0.9" in caplog.text
    assert "serves all the same" in caplog.text


def test_an_offer_that_cannot_be_met_does_not_stop_the_others() -> None:
    world = World(offer("a"), offer("b"), a=lambda job: Served(Fault("bad_input", "no")))
    assert set(world.embed(texts(20)).offers) == {"b/toy"}


def test_places_are_given_back() -> None:
    world = World(offer("a"), offer("b"), a=refusing("text 3"))
    world.embed(texts(64))
    assert world.router.places.taken() == {}


def test_no_texts_need_no_request() -> None:
    world = World(offer("a"))
    assert world.embed([]).vectors.shape == (0, 64)
    assert world.driver.jobs == []


def test_no_text_is_lost_when_an_offer_is_set_aside_while_its_batch_is_taken_apart() -> None:
    """Another flow finds out that the vectors have changed; half a batch is held by its split."""

    def set_aside_meanwhile(job: Job) -> Served:
        if len(job.batch.texts) > 2:
            return Served(Fault("bad_input", "one of these"))
        if "text 0" in job.batch.texts:
            return Served(Fault("bad_input", "one of these"), 1.0)
        verdict = Verdict("toy", serves=False, reason="changed", measure="canary", at=0.0)
        world.router.parity.verdicts[job.offer.endpoint] = verdict
        return Served(vectors(job.batch.texts), 2.0)

    world = World(offer("a"), offer("b"), a=set_aside_meanwhile)
    world.router.parity.met = {"a toy": PROBE_ROWS, "b toy": PROBE_ROWS}
    result = world.embed(texts(4))
    assert result.offers == ("b/toy",) * 4
    assert np.isfinite(result.vectors).all()


def granted(of: ConfiguredOffer, tokens: int) -> ConfiguredOffer:
    return replace(
        of, grants=(ConfiguredGrant(Meter("grant", of.account, "", Ever(), tokens=tokens)),)
    )


class Impatient(MemoryLedger):
    """Ends a flow that asks again and again for what it is refused."""

    refusals = 0

    def reserve(self, use: Use) -> Reservation | Refused:
        reserved = super().reserve(use)
        self.refusals += isinstance(reserved, Refused)
        assert self.refusals < 50
        return reserved


class AddsInstruction(ReadsAll):
    adds_instruction = True


@pytest.mark.parametrize("canary_every", [1, 10**9])
def test_a_batch_that_a_grant_has_no_room_for_is_made_smaller_whatever_goes_along(
    canary_every: int,
) -> None:
    """Instructions and canaries count when it is reserved, and not when it is cut."""
    provider = AddsInstruction(ProviderConfig("a"))
    world = World(replace(granted(offer("a", "1"), tokens=60), provider=provider))
    world.router.canaries = Canaries(canary_every)
    world.router.parity.met = {"a toy": PROBE_ROWS}
    world.driver.ledger = Impatient(Budget(None), world.driver.clock)
    result = world.embed(texts(8))
    assert np.isfinite(result.vectors).all()


def test_an_offer_that_lost_its_grant_while_it_is_met_is_not_asked_without_a_price() -> None:
    nameless = replace(granted(offer("a", max_inputs=1), tokens=30), price=None, private=False)
    world = World(nameless, offer("b"), budget=Budget(Decimal(0)), a=good)
    world.router.policy = lambda candidates: sorted(candidates, key=lambda one: one.offer.key)
    world.router.tariffs = Tariffs(budgeted=True)
    assert world.embed(["x"]).offers == ("b/toy",)
    asked = [job for job in world.driver.jobs if job.offer.account == "a"]
    # The grant has no room for the longest of the probes.
    assert [list(job.batch.texts) for job in asked] == [[probe] for probe in PROBES[:3]]


def test_a_first_meeting_in_parts_ends_at_an_offer_that_takes_fewer_a_minute() -> None:
    moments: list[float] = []

    def three_a_minute(job: Job) -> Served:
        now = world.driver.clock()
        moments[:] = [moment for moment in moments if now - moment < 60]
        if len(moments) == 3:
            wait = moments[0] + 60 - now
            return Served(Fault("rate_limited", "slow down", retry_after_seconds=wait))
        moments.append(now)
        assert len(world.driver.jobs) < 50
        return good(job)

    world = World(offer("a", max_inputs=1), offer("b", "1"), a=three_a_minute)
    world.router.timeout_seconds = 120.0
    assert world.embed(["x"]).offers == ("a/toy",)


def test_a_text_that_is_set_apart_waits_only_once() -> None:
    """The rest of its batch goes back when the grant has no room for it."""
    cuts = replace(granted(offer("a", "1"), tokens=40), provider=Provider(ProviderConfig("a")))

    def uncounted(job: Job) -> Served:
        return Served(Answer(vectors(job.batch.texts).vectors))

    world = World(cuts, offer("b", "1"), a=uncounted, b=uncounted)
    world.driver.ledger = Impatient(Budget(None), world.driver.clock)
    for endpoint in ("a toy", "b toy"):  # no canaries: they are due where none was seen for long
        world.router.capabilities[endpoint, "seen_at"] = str(world.driver.clock())
    long = "word " * 1000
    world.router.capabilities["a toy", "cuts_at_tokens"] = "560"
    world.router.capabilities["a toy", "reads_tokens"] = "500"
    world.router.parity.met = {"a toy": PROBE_ROWS, "b toy": PROBE_ROWS}
    result = world.embed([long, *texts(7)])
    assert np.isfinite(result.vectors).all()
    sent = [text for account in "ab" for batch in world.sent(account) for text in batch]
    assert sent.count(long) == 1


def test_a_part_of_a_dissolved_split_keeps_to_the_next_offers_limit() -> None:
    """A part waits for its place when another shows that the offer is down."""

    def refuses_then_fails(job: Job) -> Served:
        if set(job.batch.texts) & set(PROBES):
            return good(job)
        if len(job.batch.texts) == 8:
            return Served(Fault("bad_input", "one of these"))
        return Served(Fault("bad_key", "no such key", scope="account"))

    one_at_a_time = offer("a")
    terms = replace(one_at_a_time.offer, max_concurrency=1)
    world = World(
        replace(one_at_a_time, offer=terms), offer("b", max_inputs=2), a=refuses_then_fails
    )
    assert world.embed(texts(8)).offers == ("b/toy",) * 8
    assert max(len(batch) for batch in world.sent("b")) == 2


def test_pauses_grow_also_after_the_clock_was_set_back() -> None:
    health, limited = Health(Random(1)), Fault("rate_limited", "slow down")
    health.failed("a", limited, now=10_000.0, began=10_000.0)
    health.succeeded("a", "document", 1.0, began=10_001.0)
    for moment in (6_000.0, 6_001.0, 6_003.0):
        health.failed("a", limited, now=moment, began=moment)
    assert health.failed("a", limited, now=6_008.0, began=6_008.0).until - 6_008.0 >= 8.0


def test_a_batch_costs_no_look_at_all_that_is_left_of_the_call() -> None:
    class Watched(tuple[str, ...]):
        looks = 0

        def __getitem__(self, place: Any) -> Any:
            Watched.looks += 1
            return super().__getitem__(place)

    request = EmbedRequest(Watched(texts(4000)), "document", EmbeddingSpace("toy", 64))
    world = World(offer("a", max_inputs=4), offer("b", max_inputs=4, max_input_tokens=100))
    world.driver.run(lambda wake: world.router.flow(request, wake))
    assert len(world.driver.jobs) >= 1000
    assert Watched.looks < 10 * 4000
