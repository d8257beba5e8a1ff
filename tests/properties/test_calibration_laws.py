"""What providers count corrects what is expected of them, and nothing that protects a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_embed_plugins.calibration import BATCHES, LEAST, MOST, MOVED, Calibration
from qwen_embed_plugins.canary import Canaries
from qwen_embed_plugins.catalogue import Catalogue, ConfiguredOffer
from qwen_embed_plugins.effects import Job, Learn
from qwen_embed_plugins.health import Health
from qwen_embed_plugins.ledger import MemoryLedger, Reservation, Use
from qwen_embed_plugins.models import Model
from qwen_embed_plugins.offers import Offer
from qwen_embed_plugins.parity import Parity
from qwen_embed_plugins.provider import Provider, ProviderConfig
from qwen_embed_plugins.router import EmbedRequest, Router
from qwen_embed_plugins.routing import free_first
from qwen_embed_plugins.settings import Budget
from qwen_embed_plugins.spaces import EmbeddingSpace
from qwen_embed_plugins.testing import reference_vector
from qwen_embed_plugins.testing.simulation import Served, SimulatedDriver
from qwen_embed_plugins.tokens import estimate_tokens
from qwen_embed_plugins.types import Answer, EmbedResult

MODEL = Model("toy", dimensions=32, context_tokens=32_768)
SENTENCE = "one plain sentence of common words about the week. "
RATIO = "tokens_per_estimate"

Counts = Callable[[int], "int | None"]


def estimate(texts: Sequence[str]) -> int:
    return sum(map(estimate_tokens, texts))


class Recording(MemoryLedger):
    """Notes what is reserved, and what the calibration says at that moment."""

    world: World

    def reserve(self, use: Use) -> Reservation:
        self.world.reserved.append((use.tokens, self.world.ratio))
        reservation = super().reserve(use)
        assert isinstance(reservation, Reservation)
        return reservation


class World:
    """A router over one offer, whose server counts as it is told: (estimate of a request) to what
    it reports."""

    def __init__(self, counts: Counts, **terms: int) -> None:
        self.counts = counts
        self.reserved: list[tuple[int, float]] = []
        ledger = Recording(Budget(None), lambda: 0.0)
        ledger.world = self
        self.driver = SimulatedDriver(self._respond, ledger)
        provider = Provider(ProviderConfig("a"))
        offer = Offer("toy", "toy", **terms)  # type: ignore[arg-type]
        self.offer = ConfiguredOffer("a/toy", provider, "a", offer, MODEL, Decimal(1), False)
        self.router = self.another()

    def another(self, **capabilities: str) -> Router:
        """A router of another process, to which the state has told this of the offer."""
        endpoint = self.offer.endpoint
        # It has shown that it reads to the end.
        known = {"reads_tokens": "100000", **capabilities}
        self.router = Router(
            Catalogue(MODEL, (self.offer,), {}),
            free_first,
            free_first,
            Health(Random(1)),
            {(endpoint, name): value for name, value in known.items()},
            self.driver.clock,
            lambda event: None,
            Parity([self.offer]),
            Canaries(10**9),
        )
        return self.router

    @property
    def ratio(self) -> float:
        return self.router.calibration.corrected(self.offer.endpoint, 10**6) / 10**6

    def _respond(self, job: Job) -> Served:
        rows = np.stack([reference_vector(text, 32) for text in job.batch.texts])
        return Served(Answer(rows, self.counts(estimate(job.batch.texts))))

    def embed(self, *texts: str) -> EmbedResult:
        request = EmbedRequest(texts, "document", EmbeddingSpace("toy", 32))
        return self.driver.run(lambda wake: self.router.flow(request, wake))

    @property
    def remembered(self) -> list[float]:
        learnt = [effect for effect in self.driver.learnt if isinstance(effect, Learn)]
        return [float(effect.value) for effect in learnt if effect.name == RATIO]


def prose(number: int, words: int = 30) -> str:
    return f"number {number}: " + "some words of prose " * (words // 4)


COUNTS = st.one_of(st.none(), st.integers(0, 3000), st.integers(0, 10**400))


@settings(max_examples=150)
@given(
    reports=st.lists(COUNTS, min_size=1, max_size=30),
    sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=12),
    batch_tokens=st.integers(1, 2000),
)
def test_whatever_a_server_counts_reservations_hold_and_no_text_is_refused_for_it(
    reports: list[int | None], sizes: list[int], batch_tokens: int
) -> None:
    left = list(reports)
    world = World(lambda _: left.pop() if left else None, max_batch_tokens=batch_tokens)
    for number, size in enumerate(sizes):
        result = world.embed(prose(number, size), prose(-number - 1, 7))
        blamed = {error.position for error in result.errors}
        # By its count of tokens a server may be taken to cut texts, and by nothing else.
        assert all("tokens where about" in error.message for error in result.errors)
        assert not blamed - {0}, "a short text is cut by nobody"
    assert len(world.reserved) == len(world.driver.jobs)
    for (tokens, ratio), job in zip(world.reserved, world.driver.jobs, strict=True):
        plain = estimate(job.batch.texts)
        assert LEAST <= ratio <= MOST
        assert tokens > 0
        miscounts = world.offer.key in world.router.miscounting
        assert tokens >= plain * ratio / 2 or (miscounts and tokens >= plain / 2)
        assert tokens <= 2 * plain * MOST + 2
        many = len(job.batch.texts) > 1
        assert not many or plain * LEAST <= batch_tokens, "it was split by what it was likely to be"


@given(
    stored=st.one_of(
        st.text(max_size=8), st.sampled_from(["nan", "inf", "-inf", "-1", "0", "1e9", "0.5"])
    ),
    batches=st.lists(st.tuples(st.integers(1, 10**320), st.integers(1, 10**6)), max_size=40),
)
def test_a_ratio_is_sane_whatever_was_stored_or_seen(
    stored: str, batches: list[tuple[int, int]]
) -> None:
    calibration = Calibration({("e", RATIO): stored}, RATIO)
    for reported, counted in [(1, 1), *batches]:
        learnt = calibration.observe("e", reported, counted)
        assert learnt is None or LEAST <= float(learnt) <= MOST
        assert 0 < LEAST * counted <= calibration.corrected("e", counted) <= MOST * counted + 1
    assert calibration.corrected("another", 100) == 100


@pytest.mark.parametrize(
    ("stored", "ratio"),
    [("0.5", 0.5), ("0.01", LEAST), ("77", MOST), ("nan", 1), ("-inf", 1), ("x", 1), ("", 1)],
)
def test_a_ratio_that_is_none_is_one(stored: str, ratio: float) -> None:
    calibration = Calibration({("e", RATIO): stored}, RATIO)
    assert calibration.corrected("e", 1_000) == ratio * 1_000


@pytest.mark.parametrize("truth", [0.6, 1.0, 1.8])
def test_the_ratio_finds_the_truth_and_follows_it(truth: float) -> None:
    world = World(lambda tokens: round(tokens * truth), max_inputs=8)
    for number in range(60):
        world.embed(*[prose(number * 8 + place, 200) for place in range(8)])
    assert world.ratio == pytest.approx(truth, rel=0.02)
    # The next reservation is twice what will be counted, not twice what was estimated.
    world.embed(*[prose(-place, 200) for place in range(8)])
    tokens, _ = world.reserved[-1]
    assert tokens == pytest.approx(
        2 * truth * estimate(world.driver.jobs[-1].batch.texts), rel=0.03
    )
    world.counts = lambda tokens: tokens
    for number in range(100, 160):
        world.embed(*[prose(number * 8 + place, 200) for place in range(8)])
    assert world.ratio == pytest.approx(1.0, rel=0.02)


def test_batches_hold_more_where_fewer_tokens_are_counted() -> None:
    world = World(lambda tokens: round(tokens * 0.6), max_inputs=100, max_batch_tokens=4_000)
    texts = [prose(number, 100) for number in range(100)]
    world.embed(*texts)
    before = len(world.driver.jobs[0].batch.texts)
    for _ in range(10):
        world.embed(*texts)
    after = max(len(job.batch.texts) for job in world.driver.jobs[-3:])
    assert after / before == pytest.approx(1 / 0.6, rel=0.05)


def test_a_batch_of_another_kind_does_not_speak_for_all() -> None:
    world = World(lambda tokens: tokens, max_inputs=8)
    for number in range(30):
        world.embed(*[prose(number * 8 + place, 400) for place in range(8)])
    world.counts = lambda tokens: tokens * 3
    world.embed(*[prose(-place - 1, 4000) for place in range(8)])
    assert 1.2 < world.ratio < 1.6
    world.counts = lambda tokens: tokens * 3
    before = world.ratio
    world.embed("yes")
    assert world.ratio == pytest.approx(before, rel=0.01), "a query's end token says nothing"


def test_what_was_learnt_is_there_for_the_next_process_and_written_rarely() -> None:
    drift = [1.0]

    def counts(tokens: int) -> int:
        drift[0] *= 0.995
        return round(tokens * max(0.55, drift[0]))

    world = World(counts, max_inputs=4)
    for number in range(300):
        world.embed(*[prose(number * 4 + place, 300) for place in range(4)])
    learnt = world.remembered
    assert 2 <= len(learnt) <= 300 // BATCHES + 1
    pairs = zip([1.0, *learnt], learnt, strict=False)
    assert all(abs(now / before - 1) > MOVED for before, now in pairs)
    assert learnt[-1] == pytest.approx(world.ratio, rel=MOVED)
    world.another(**{RATIO: str(learnt[-1])})
    assert world.ratio == pytest.approx(learnt[-1], abs=1e-4)
    count = len(world.remembered)
    for number in range(20):
        world.embed(*[prose(-number * 4 - place, 300) for place in range(4)])
    assert len(world.remembered) == count, "it had not moved"


def test_who_counts_something_else_corrects_nothing() -> None:
    world = World(lambda tokens: 1, max_inputs=8)
    for number in range(20):
        world.embed(*[prose(number * 8 + place, 20) for place in range(8)])
    assert world.offer.key in world.router.miscounting
    assert world.ratio == 1.0
    # Found out only later: what was learnt of it until then is not used any more.
    late = World(lambda tokens: tokens * 3, max_inputs=8)
    for number in range(20):
        late.embed(*[prose(number * 8 + place, 200) for place in range(8)])
    late.counts = lambda tokens: 1
    late.embed("a few plain words of text", "and a few plain words more")
    late.embed("again a few words of text")
    tokens, ratio = late.reserved[-1]
    assert ratio > 2
    assert tokens == 2 * estimate(late.driver.jobs[-1].batch.texts)


@pytest.mark.parametrize("truth", [0.55, 0.8, 1.0])
def test_a_silent_cutter_is_found_after_calibration_as_before(truth: float) -> None:
    """It counts little, so a cut would look less like one if the measure were corrected by that."""
    long = SENTENCE * 120
    world = World(lambda tokens: round(tokens * truth), max_inputs=8)
    for number in range(80):
        assert not world.embed(*[prose(number * 8 + place, 200) for place in range(8)]).errors
    assert world.ratio == pytest.approx(truth, rel=0.02)
    cut_at = int(estimate([long]) * 0.45)
    world.counts = lambda tokens: min(round(tokens * truth), cut_at)
    for _ in range(30):  # nor does it get away with it by cutting often
        result = world.embed(long)
        [error] = result.errors
        assert error.kind == "too_large"
        assert f"counted {cut_at} tokens where about {estimate([long])} were sent" in error.message
    assert world.ratio == pytest.approx(truth, rel=0.05), "a cut teaches nothing"


def test_a_pair_that_was_cut_teaches_nothing() -> None:
    """Texts of ours are read for other signs, and their counts are those of a cut."""
    world = World(lambda tokens: min(tokens, 900), max_inputs=1, max_input_tokens=30_000)
    world.another(reads_tokens="0")
    world.embed(SENTENCE * 60)  # under the length of the pair that it makes necessary
    sent = [estimate(job.batch.texts) for job in world.driver.jobs]
    assert max(sent) > 1_800, "a pair was sent"
    assert world.ratio == pytest.approx(1.0, rel=0.01)
