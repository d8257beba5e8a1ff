"""`verify` under a simulated clock: odd servers, and by whom the others are measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from random import Random

import numpy as np
import pytest

from qwen_embed_plugins.canary import Canaries
from qwen_embed_plugins.catalogue import Catalogue, ConfiguredOffer
from qwen_embed_plugins.effects import Job, KeepVerdict
from qwen_embed_plugins.errors import NoOfferLeft
from qwen_embed_plugins.health import Health
from qwen_embed_plugins.ledger import MemoryLedger
from qwen_embed_plugins.models import Model
from qwen_embed_plugins.offers import Offer
from qwen_embed_plugins.parity import Parity
from qwen_embed_plugins.provider import Provider, ProviderConfig
from qwen_embed_plugins.router import Router
from qwen_embed_plugins.routing import free_first
from qwen_embed_plugins.settings import Budget
from qwen_embed_plugins.spaces import EmbeddingSpace
from qwen_embed_plugins.testing import reference_tokens, reference_vector
from qwen_embed_plugins.testing.simulation import Served, SimulatedDriver
from qwen_embed_plugins.types import Answer, Fault
from qwen_embed_plugins.verification import OfferReport, Report, Verification

MODEL = Model("toy", dimensions=64, context_tokens=8192, min_dimensions=8)

Respond = Callable[[Job], Served]


def server(space: int = 0, reads: int = 10**9) -> Respond:
    """A server that gives the vectors of one space and reads so many tokens."""

    def respond(job: Job) -> Served:
        texts = [t[: reads * 4] if reference_tokens(t) > reads else t for t in job.batch.texts]
        length = job.batch.dimensions or 64
        rows = [reference_vector(text, 64, seed=space)[:length] for text in texts]
        return Served(Answer(np.stack([row / np.linalg.norm(row) for row in rows])))

    return respond


def down(job: Job) -> Served:
    return Served(Fault("bad_key", "HTTP 401: no"))


def offer(name: str, *, host: str | None = None, proven: bool = True) -> ConfiguredOffer:
    terms = Offer("toy", "toy", membership="declared" if proven else "unproven")
    provider = Provider(ProviderConfig(name, base_url=host and f"http://{host}/v1"))
    return ConfiguredOffer(f"{name}/toy", provider, name, terms, MODEL, Decimal(0), private=True)


class World:
    """A verification of some offers, by servers that are functions; the driver keeps what was
    asked and learnt."""

    def __init__(self, *offers: ConfiguredOffer, **respond: Respond) -> None:
        self.driver = SimulatedDriver(
            lambda job: respond[job.offer.account](job), MemoryLedger(Budget(), lambda: 0.0)
        )
        self.router = Router(
            catalogue=Catalogue(MODEL, offers, {}),
            policy=free_first,
            query_policy=free_first,
            health=Health(Random(1)),
            capabilities={},
            now=self.driver.clock,
            emit=lambda event: None,
            parity=Parity(offers),
            canaries=Canaries(10**9),
        )

    def verify(self, against: str | None = None) -> Report:
        verification = Verification(self.router, EmbeddingSpace("toy", 64), against, 600)
        return self.driver.run(lambda wake: verification.run())

    def entries(self, against: str | None = None) -> dict[str, OfferReport]:
        report = self.verify(against)
        return {entry.offer.partition("/")[0]: entry for entry in report.offers}

    @property
    def verdicts(self) -> list[KeepVerdict]:
        return [effect for effect in self.driver.learnt if isinstance(effect, KeepVerdict)]


def test_a_closed_offer_does_not_join_while_nobody_is_there_to_measure_it_by() -> None:
    world = World(offer("open"), offer("closed", proven=False), open=down, closed=server(space=3))
    entries = world.entries()
    assert not entries["closed"].serves
    assert "nothing to measure it by" in entries["closed"].reason
    assert not world.verdicts  # what was known of it stands
    assert world.router.parity.refuses(world.router.catalogue.offers[1]) is not None


def test_a_closed_offer_joins_when_it_was_measured() -> None:
    world = World(offer("open"), offer("closed", proven=False), open=server(), closed=server())
    assert world.entries()["closed"].serves
    other = World(offer("open"), offer("closed", proven=False), open=server(), closed=server(3))
    assert not other.entries()["closed"].serves


@pytest.mark.parametrize("broken", [down, lambda job: Served(Answer([[0.0] * 64] * 15))])
def test_nobody_is_measured_by_one_that_gave_no_vectors(broken: Respond) -> None:
    world = World(offer("good"), offer("broken"), good=server(), broken=broken)
    with pytest.raises(NoOfferLeft, match="nothing can be measured by it"):
        world.verify("broken")
    assert not world.verdicts


def test_vectors_that_agree_are_a_majority_also_where_one_of_them_cuts() -> None:
    world = World(
        offer("other"), offer("good"), offer("cutter"),
        other=server(space=5), good=server(), cutter=server(reads=512),
    )  # fmt: skip
    report = world.verify()
    assert report.reference == "good/toy"
    assert [entry.serves for entry in report.offers] == [False, True, False]


def test_two_accounts_at_one_server_are_one_voice() -> None:
    world = World(
        offer("good"), offer("twin"), offer("one", host="x"), offer("two", host="x"),
        offer("three", host="x"),
        good=server(), twin=server(), one=server(5), two=server(5), three=server(5),
    )  # fmt: skip
    assert world.verify().reference == "good/toy"


@pytest.mark.parametrize("names_it", [True, False])
def test_a_server_that_takes_few_texts_at_once_is_examined_all_the_same(names_it: bool) -> None:
    def few(job: Job) -> Served:
        if len(job.batch.texts) > 4:
            return Served(Fault("too_large", "too many", limit=4 if names_it else None))
        return server()(job)

    assert World(offer("few"), few=few).entries()["few"].serves


def test_a_pair_that_is_too_long_together_is_sent_apart() -> None:
    def small(job: Job) -> Served:
        if sum(map(reference_tokens, job.batch.texts)) > 1_000:
            return Served(Fault("too_large", "too many tokens in all"))
        return server()(job)

    world = World(offer("small"), small=small)
    entry = world.entries()["small"]
    assert entry.serves
    assert world.router.capabilities["small toy", "reads_tokens"] == "600"


def test_one_without_a_single_right_vector_does_not_serve_though_it_is_alone() -> None:
    def broken(job: Job) -> Served:
        return Served(Answer(np.full((1, 64), np.nan)))

    alone = offer("broken")
    alone = replace(alone, offer=replace(alone.offer, max_inputs=1))
    entry = World(alone, broken=broken).entries()["broken"]
    assert not entry.serves
    assert "NaN" in entry.reason


def test_broken_vectors_for_the_queries_of_the_card_do_not_pass() -> None:
    def broken(job: Job) -> Served:
        if job.batch.role == "query":
            return Served(Answer(np.stack([np.zeros(64), np.ones(64)])))
        return server()(job)

    entry = World(offer("broken"), broken=broken).entries()["broken"]
    assert not entry.serves
    assert "zeros" in entry.reason


def test_a_row_that_is_broken_when_alone_disturbs_nothing_else() -> None:
    def broken(job: Job) -> Served:
        if len(job.batch.texts) == 1:
            return Served(Answer(np.zeros((1, 64))))
        return server()(job)

    assert World(offer("a"), a=broken).entries()["a"].offer == "a/toy"


@pytest.mark.parametrize(
    "answer",
    [[[0.5] * 16] * 2, [], [[0.5], [0.5, 0.5]], [None], [["a"] * 16], [[0.0] * 16], "none", None],
)
def test_whatever_comes_when_a_shorter_length_is_asked_for_ends_no_examination(
    answer: object,
) -> None:
    def odd(job: Job) -> Served:
        if job.batch.dimensions:
            return Served(Answer(answer))
        return server()(job)

    assert World(offer("odd"), odd=odd).entries()["odd"].serves


def test_one_that_always_says_to_wait_is_given_up_and_the_others_are_judged() -> None:
    def busy(job: Job) -> Served:
        return Served(Fault("rate_limited", "HTTP 429", retry_after_seconds=30))

    world = World(offer("busy"), offer("good"), busy=busy, good=server())
    entries = world.entries()
    assert entries["busy"].fault is not None
    assert entries["busy"].requests <= 4
    assert entries["good"].serves
