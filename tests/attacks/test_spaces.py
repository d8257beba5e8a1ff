"""Servers that give other vectors than they should: compared, found out, and never believed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen_embed_plugins import AsyncEmbedder, Embedder, EmbedResult, NoOfferLeft, Settings
from qwen_embed_plugins import router as router_module
from qwen_embed_plugins.errors import PartialFailure
from qwen_embed_plugins.state import SQLiteState
from qwen_embed_plugins.testing import Behaviour, Reply, SimulatedServer, reference_vector

SMALL = "qwen3-embedding-0.6b"
WEEK = "one sentence about the week of a lighthouse keeper and his dog. "

Behaviours = dict[str, Behaviour]

FOUR = {
    "good": Behaviour(),
    "noisy": Behaviour(noise=0.01),
    "other": Behaviour(seed=5),
    "cutter": Behaviour(context_tokens=512, too_long="cut"),
}
"""The same space; the same with noise; another space; one that cuts at 512 tokens."""


class Row:
    """Simulated servers by name, and the settings that use them in this order."""

    def __init__(self, state: Path, behaviours: Behaviours) -> None:
        self.state = state
        self.servers = {name: SimulatedServer(b, native=1024) for name, b in behaviours.items()}

    def settings(self, *use: str, **given: Any) -> Settings:
        tables = given.pop("tables", {})
        providers = {
            name: {
                "kind": "openai-compatible",
                "base_url": f"{server.url}/v1",
                **tables.get(name, {}),
            }
            for name, server in self.servers.items()
        }
        chosen = use or tuple(self.servers)
        return Settings.load(
            model=SMALL, use=chosen, providers=providers, state=str(self.state), **given
        )


@pytest.fixture
def row(tmp_path: Path) -> Iterator[Callable[[Behaviours], Row]]:
    made: list[SimulatedServer] = []

    def make(behaviours: Behaviours) -> Row:
        servers = Row(tmp_path / "spaces.db", behaviours)
        made.extend(server.start() for server in servers.servers.values())
        return servers

    yield make
    for server in made:
        server.close()


def served_by(result: EmbedResult) -> set[str]:
    return {str(key).partition("/")[0] for key in result.offers}


def right(result: EmbedResult, texts: list[str]) -> bool:
    expected = np.stack([reference_vector(text, 1024) for text in texts])
    return bool((np.einsum("ij,ij->i", result.vectors, expected) > 0.999).all())


@pytest.mark.usefixtures("hasty")
def test_before_any_verify_no_vector_of_a_bad_one_is_served_even_under_failover(
    row: Callable[[Behaviours], Row], caplog: pytest.LogCaptureFixture
) -> None:
    four = row(FOUR)
    texts = [f"text {number}" for number in range(64)]
    with Embedder(four.settings("good", "other", "cutter", "noisy")) as embedder:
        assert served_by(embedder.embed(texts)) == {"good"}
        four.servers["good"].close()
        result = embedder.embed(texts)
        assert served_by(result) == {"noisy"}
        assert right(result, texts)
        four.servers["noisy"].close()
        with pytest.raises(NoOfferLeft) as caught:
            embedder.embed(texts)
    assert "are not those of good" in caught.value.reasons[f"other/{SMALL}"]
    assert "cuts texts without a word" in caught.value.reasons[f"cutter/{SMALL}"]
    assert sum("cutter" in record.message for record in caplog.records) == 1


def test_verify_tells_the_four_apart_with_figures(row: Callable[[Behaviours], Row]) -> None:
    four = row(FOUR)
    settings = four.settings("other", "good", "noisy", "cutter")
    with Embedder(settings) as embedder:
        report = embedder.verify()
        entries = {entry.offer.partition("/")[0]: entry for entry in report.offers}
        assert report.reference == f"good/{SMALL}"
        assert {name for name, entry in entries.items() if entry.serves} == {"good", "noisy"}
        near = {name: entry.near for name, entry in entries.items()}
        assert all(near.values())
        assert 0.9999 < near["noisy"].least < 1 - 1e-6  # type: ignore[union-attr]
        assert near["other"].mean < 0.2  # type: ignore[union-attr]
        assert "after about 560 tokens" in entries["cutter"].reason
        assert served_by(embedder.embed(["a text"])) == {"good"}
    stored = SQLiteState(str(four.state)).verdicts(SMALL)
    assert sorted(verdict.serves for verdict in stored.values()) == [False, False, True, True]
    four.servers["good"].close()
    with Embedder(four.settings("other", "cutter", "good", "noisy")) as another_process:
        assert served_by(another_process.embed(["a text"])) == {"noisy"}


def test_verify_awaited_measures_by_whom_one_names(row: Callable[[Behaviours], Row]) -> None:
    four = row(FOUR)

    async def verified() -> dict[str, bool]:
        async with AsyncEmbedder(four.settings()) as embedder:
            report = await embedder.verify(against="other", longest=600)
            return {entry.offer.partition("/")[0]: entry.serves for entry in report.offers}

    assert asyncio.run(verified()) == {
        "good": False, "noisy": False, "other": True, "cutter": False,
    }  # fmt: skip


def test_what_verify_finds_is_said_in_plain_words(row: Callable[[Behaviours], Row]) -> None:
    servers = row(
        {
            "good": Behaviour(),
            "half": Behaviour(rows="nan", rows_with="importance of", encodings="floats_only"),
            "scaled": Behaviour(rows="scaled"),
            "padded": Behaviour(rows="padded"),
            "short": Behaviour(rows="cut"),
            "mixed": Behaviour(order="duplicate"),
            "locked": Behaviour(key="another"),
        }
    )
    with Embedder(servers.settings()) as embedder:
        report = embedder.verify(longest=600)
    said = {
        entry.offer.partition("/")[0]: (entry.serves, " ".join((entry.reason, *entry.findings)))
        for entry in report.offers
    }
    for name, (serves, words) in {
        "half": (True, "half precision"),
        "scaled": (True, "not normalised (length 3)"),
        "padded": (False, "padded"),
        "short": (False, "512 numbers"),
        "mixed": (False, "index"),
        "locked": (False, "401"),
    }.items():
        assert said[name][0] is serves, (name, said[name])
        assert words in said[name][1], (name, said[name])
    assert not report.all_serve


@pytest.mark.usefixtures("hasty")
def test_a_verdict_is_taken_back_when_the_server_is_mended(
    row: Callable[[Behaviours], Row],
) -> None:
    two = row({"good": Behaviour(), "other": Behaviour(seed=5)})
    with Embedder(two.settings()) as embedder:
        embedder.verify(longest=600)
    two.servers["other"].behave(seed=0)
    two.servers["good"].close()
    with Embedder(two.settings()) as embedder:
        with pytest.raises(NoOfferLeft):
            embedder.embed(["a text"])
        two.servers["good"].start()
        assert embedder.verify(longest=600).all_serve
        two.servers["good"].close()
        assert served_by(embedder.embed(["another text"])) == {"other"}


def test_with_parity_verified_nobody_serves_unmeasured(row: Callable[[Behaviours], Row]) -> None:
    two = row({"good": Behaviour(), "twin": Behaviour()})
    settings = two.settings(parity="verified")
    with Embedder(settings) as embedder:
        with pytest.raises(NoOfferLeft, match="not measured yet"):
            embedder.embed(["a text"])
        assert not two.servers["good"].requests
        assert embedder.verify(longest=600).all_serve
        assert served_by(embedder.embed(["a text"])) == {"good"}


def test_verify_keeps_to_the_budget(row: Callable[[Behaviours], Row]) -> None:
    two = row({"free": Behaviour(), "dear": Behaviour()})
    settings = two.settings(
        tables={"dear": {"price_per_million": "100"}}, budget={"usd_per_day": "0"}
    )
    with Embedder(settings) as embedder:
        report = embedder.verify(longest=600)
    assert not two.servers["dear"].requests
    assert [entry.serves for entry in report.offers] == [True, False]
    assert report.offers[1].fault is not None


def test_verify_waits_out_a_rate_limit(row: Callable[[Behaviours], Row]) -> None:
    one = row({"good": Behaviour()})
    one.servers["good"].script(Reply.rate_limited(0.1), None, Reply.rate_limited(0.1))
    with Embedder(one.settings()) as embedder:
        assert embedder.verify(longest=600).all_serve


def test_a_server_that_changes_its_model_is_set_aside_within_a_thousand_batches(
    row: Callable[[Behaviours], Row], caplog: pytest.LogCaptureFixture
) -> None:
    two = row({"first": Behaviour(), "second": Behaviour()})
    settings = two.settings(tables={"first": {"max_inputs": 2}, "second": {"max_inputs": 2}})
    first = two.servers["first"]

    def change(request: Any) -> None:
        if first.request_count == 40:
            first.behave(seed=9)

    first.respond = change
    texts = [f"text {number}" for number in range(2400)]
    with Embedder(settings) as embedder:
        result = embedder.embed(texts)
        assert first.request_count - 40 <= 1000
        later = [f"later text {number}" for number in range(50)]
        after = embedder.embed(later)
    assert served_by(after) == {"second"}
    assert right(after, later)
    assert served_by(result) == {"first", "second"}
    said = [record for record in caplog.records if "vectors have changed" in record.message]
    assert len(said) == 1
    with Embedder(settings) as another_process:
        assert served_by(another_process.embed(["a text"])) == {"second"}


def test_an_offer_alone_gets_known_and_is_watched_too(row: Callable[[Behaviours], Row]) -> None:
    one = row({"only": Behaviour()})
    with Embedder(one.settings(canary_every=5, tables={"only": {"max_inputs": 4}})) as embedder:
        embedder.embed([f"text {number}" for number in range(40)])
        one.servers["only"].behave(seed=3)
        with pytest.raises((NoOfferLeft, PartialFailure)):
            embedder.embed_documents([f"other text {number}" for number in range(60)])


def test_a_canary_is_stored_nowhere_and_counted(row: Callable[[Behaviours], Row]) -> None:
    two = row({"first": Behaviour(), "second": Behaviour()})
    texts = [f"text {number}" for number in range(90)]
    with Embedder(two.settings(canary_every=1)) as embedder:
        result = embedder.embed(texts)
        query = embedder.embed_query("What is the capital of China?")
    assert right(result, texts)
    assert two.servers["first"].tokens_served >= result.usage.tokens
    with_canary = [len(request.texts) for request in two.servers["first"].requests]
    assert max(with_canary) == 32
    prompt = "Instruct: Given a web search query, retrieve relevant passages that answer the query"
    expected = reference_vector(f"{prompt}\nQuery:What is the capital of China?", 1024)
    assert float(query @ expected) > 0.999


def test_long_texts_go_only_where_they_are_read(row: Callable[[Behaviours], Row]) -> None:
    """One offer alone is not introduced; a long text makes it show that it reads to the end."""
    one = row({"cutter": Behaviour(context_tokens=2048, too_long="cut", reports_tokens=False)})
    with Embedder(one.settings()) as embedder:
        short = embedder.embed(["short", "texts"])
        assert not short.errors
        with pytest.raises(NoOfferLeft, match="cuts texts without a word"):
            embedder.embed([WEEK * 140])
    assert not any(WEEK in text for text in one.servers["cutter"].texts_seen)


def test_one_that_refuses_long_texts_serves_all_others(row: Callable[[Behaviours], Row]) -> None:
    one = row({"strict": Behaviour(context_tokens=1024, too_long="refuse")})
    texts = ["short", WEEK * 140, WEEK * 20]
    with Embedder(one.settings()) as embedder:
        result = embedder.embed(texts)
        assert [(error.position, error.kind) for error in result.errors] == [(1, "too_large")]
        before = one.servers["strict"].request_count
        embedder.embed([WEEK * 21])
        assert one.servers["strict"].request_count == before + 1  # asked once, remembered


def test_beyond_its_own_limit_a_silent_cutter_is_found_by_a_pair_and_the_text_fails_by_name(
    row: Callable[[Behaviours], Row],
) -> None:
    cutter = Behaviour(context_tokens=8192, too_long="cut", reports_tokens=False)
    one = row({"cutter": cutter})
    table = {"cutter": {"max_input_tokens": 8192}}
    long, longer = WEEK * 250, WEEK * 800
    with Embedder(one.settings(tables=table)) as embedder:
        result = embedder.embed(["short", long, longer])
    assert [(error.position, error.kind) for error in result.errors] == [(2, "too_large")]
    assert longer not in one.servers["cutter"].texts_seen


@pytest.mark.parametrize("counted", [512, 1100])
def test_a_count_that_betrays_a_cut_sends_the_text_elsewhere(
    row: Callable[[Behaviours], Row], counted: int
) -> None:
    """The pair may pass, and the server cut this text all the same: its count tells."""
    two = row({"sly": Behaviour(reported_tokens=counted), "honest": Behaviour()})
    text = WEEK * 160  # about 2,560 tokens
    with (
        Embedder(two.settings("sly")) as embedder,
        pytest.raises(PartialFailure, match="counted"),
    ):
        embedder.embed_documents([text, "short"])
    with Embedder(two.settings()) as embedder:
        result = embedder.embed([text])
    assert served_by(result) == {"honest"}


def test_a_server_that_counts_something_else_is_not_suspected(
    row: Callable[[Behaviours], Row], caplog: pytest.LogCaptureFixture
) -> None:
    one = row({"counter": Behaviour(reported_tokens=1)})
    caplog.set_level(logging.WARNING)
    with Embedder(one.settings()) as embedder:
        assert not embedder.embed([f"number {n} of the short texts here" for n in range(9)]).errors
        assert not embedder.embed([WEEK * 160]).errors


def test_runs_of_one_character_are_not_taken_for_a_cut(row: Callable[[Behaviours], Row]) -> None:
    one = row({"good": Behaviour(reported_tokens=300)})
    with Embedder(one.settings()) as embedder:
        assert not embedder.embed(["-" * 4000 + "\n" + " " * 4000 + "the end"]).errors


@pytest.mark.usefixtures("hasty")
def test_the_measure_stays_whoever_meets_it_again(row: Callable[[Behaviours], Row]) -> None:
    """Two processes know nothing of each other's meetings until they have met the same offer."""
    two = row({"good": Behaviour(), "other": Behaviour(seed=5)})
    with Embedder(two.settings()) as first, Embedder(two.settings()) as second:
        assert served_by(first.embed(["a text"])) == {"good"}
        two.servers["good"].close()
        with pytest.raises(NoOfferLeft, match="are not those of good"):
            first.embed(["a text"])
        two.servers["good"].start()
        assert served_by(second.embed(["a text"])) == {"good"}
    two.servers["good"].close()
    with (
        Embedder(two.settings("other", "good")) as third,
        pytest.raises(NoOfferLeft, match="are not those of good"),
    ):
        third.embed(["a text"])


def test_what_another_process_met_meanwhile_is_the_measure(
    row: Callable[[Behaviours], Row],
) -> None:
    two = row({"good": Behaviour(), "other": Behaviour(seed=5)})
    with (
        Embedder(two.settings("good", "other")) as first,
        Embedder(two.settings("other", "good")) as second,
    ):
        assert served_by(first.embed(["a text"])) == {"good"}
        assert served_by(second.embed(["a text"])) == {"good"}


@pytest.mark.parametrize("status", [400, 422])
def test_a_refusal_in_unknown_words_takes_out_long_texts_alone(
    row: Callable[[Behaviours], Row], status: int
) -> None:
    def refuse(request: Any) -> Reply | None:
        long = any(len(text) > 2_000 for text in request.texts)
        return Reply(status, "no, thank you") if long else None

    one = row({"strict": Behaviour()})
    one.servers["strict"].respond = refuse
    with Embedder(one.settings()) as embedder:
        result = embedder.embed(["short", WEEK * 140, "as short"])
        assert [error.position for error in result.errors] == [1]
        assert not embedder.embed(["another short text"]).errors


def test_a_count_that_happens_to_be_a_cap_says_nothing_of_one_that_refuses(
    row: Callable[[Behaviours], Row],
) -> None:
    one = row({"strict": Behaviour(context_tokens=1024, too_long="refuse")})
    with Embedder(one.settings()) as embedder:
        embedder.embed(["short", WEEK * 140])
        one.servers["strict"].behave(reported_tokens=512)
        assert not embedder.embed([WEEK * 36]).errors  # an estimate of 577


def test_one_that_refuses_the_longest_and_cuts_the_long_is_found(
    row: Callable[[Behaviours], Row],
) -> None:
    """A gateway bounds what comes in; the model behind it reads less and says nothing of it."""

    def gateway(request: Any) -> Reply | None:
        return Reply(413, "too large") if any(len(t) > 20_000 for t in request.texts) else None

    cutter = Behaviour(context_tokens=1024, too_long="cut", reports_tokens=False)
    one = row({"cutter": cutter})
    one.servers["cutter"].respond = gateway
    with Embedder(one.settings()) as embedder, pytest.raises(NoOfferLeft, match="cuts texts"):
        embedder.embed([WEEK * 200])


def test_a_running_process_heeds_what_verify_finds_in_another(
    row: Callable[[Behaviours], Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(router_module, "RECALL_SECONDS", 0.0)
    two = row({"first": Behaviour(), "second": Behaviour()})
    with Embedder(two.settings(canary_every=1)) as worker, Embedder(two.settings()) as person:
        assert served_by(worker.embed(["a text"])) == {"first"}
        two.servers["first"].behave(seed=9)
        person.verify(against="second", longest=600)
        asked = two.servers["first"].request_count
        assert served_by(worker.embed(["another text"])) == {"second"}
        assert two.servers["first"].request_count == asked
        two.servers["second"].behave(seed=9)  # both have the new model now: a new space
        assert person.verify(longest=600).all_serve
        for number in range(4):
            assert served_by(worker.embed([f"text {number}"])) == {"first"}


def test_one_that_takes_a_single_text_at_once_is_watched_too(
    row: Callable[[Behaviours], Row],
) -> None:
    two = row({"single": Behaviour(), "second": Behaviour()})
    settings = two.settings(canary_every=5, tables={"single": {"max_inputs": 1}})
    with Embedder(settings) as embedder:
        early = [embedder.embed([f"early text {number}"]) for number in range(8)]
        assert {"single"} in map(served_by, early)
        two.servers["single"].behave(seed=3)
        later = [embedder.embed([f"text {number}"]) for number in range(12)]
    assert served_by(later[-1]) == {"second"}
    assert right(later[-1], ["text 11"])


@pytest.mark.usefixtures("hasty")
def test_many_threads_that_meet_an_offer_at_once_say_it_once(
    row: Callable[[Behaviours], Row], caplog: pytest.LogCaptureFixture
) -> None:
    two = row({"good": Behaviour(), "other": Behaviour(seed=5, latency_seconds=0.1)})
    with Embedder(two.settings()) as embedder:
        embedder.embed(["the first"])
        two.servers["good"].script(*[Reply(500, "down")] * 400)

        def embed(number: int) -> None:
            with pytest.raises(NoOfferLeft, match="are not those of good"):
                embedder.embed([f"text {number}"])

        with ThreadPoolExecutor(8) as pool:
            assert len(list(pool.map(embed, range(8)))) == 8
    assert two.servers["other"].request_count > 1
    assert sum("left out" in record.message for record in caplog.records) == 1


def test_failing_at_long_texts_keeps_no_short_one_away_and_is_not_paid_for_again(
    row: Callable[[Behaviours], Row],
) -> None:
    one = row({"frail": Behaviour()})

    def fails_at_long_ones(request: Any) -> Reply | None:
        return Reply(503, "out of memory") if any(len(t) > 2000 for t in request.texts) else None

    one.servers["frail"].respond = fails_at_long_ones
    with Embedder(one.settings()) as embedder:
        result = embedder.embed(["short", WEEK * 140])
        assert [(error.position, error.kind) for error in result.errors] == [(1, "no_offer")]
        assert "failed to show" in result.errors[0].message
        seen = one.servers["frail"].request_count
        assert not embedder.embed(["another short one"]).errors
        assert one.servers["frail"].request_count == seen + 1
    assert sum(len(text) > 2000 for text in one.servers["frail"].texts_seen) <= 2


def test_a_text_of_digits_has_many_tokens(row: Callable[[Behaviours], Row]) -> None:
    one = row({"cutter": Behaviour(context_tokens=512, too_long="cut", reports_tokens=False)})
    digits = "3141592653" * 100
    with Embedder(one.settings()) as embedder, pytest.raises(NoOfferLeft, match="cuts texts"):
        embedder.embed([digits])
    assert digits not in one.servers["cutter"].texts_seen
