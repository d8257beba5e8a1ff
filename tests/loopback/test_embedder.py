"""Right vectors over real HTTP, whatever a server does to them and wherever they are asked for."""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from math import ceil, log2
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from qwen_embed_plugins import (
    AsyncEmbedder,
    Embedder,
    InvalidInput,
    NoOfferLeft,
    PartialFailure,
    Settings,
)
from qwen_embed_plugins.parity import PROBES
from qwen_embed_plugins.reading import pair
from qwen_embed_plugins.testing import Behaviour, Reply, SimulatedServer, reference_vector

if TYPE_CHECKING:
    import numpy.typing as npt

Configure = Callable[..., Settings]

TEXTS = ["Процедура банкротства физических лиц", "how to bake bread", "火车几点出发", "import"]
NATIVE = 4096


def expected(texts: Sequence[str], dimensions: int) -> npt.NDArray[np.float64]:
    native = np.stack([reference_vector(text, NATIVE) for text in texts]).astype(np.float64)
    cut = native[:, :dimensions]
    norms: npt.NDArray[np.float64] = np.linalg.norm(cut, axis=1, keepdims=True)
    return cut / norms


def assert_right(vectors: Any, texts: Sequence[str], dimensions: int) -> None:
    found = np.asarray(vectors, dtype=np.float64)
    assert found.shape == (len(texts), dimensions)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    cosines = np.einsum("ij,ij->i", found, expected(texts, dimensions))
    assert (cosines > 0.999999).all(), cosines


MISCHIEF = {
    "honours": Behaviour(),
    "ignores": Behaviour(dimensions="ignore"),
    "pads": Behaviour(dimensions="pad"),
    "cuts": Behaviour(dimensions="cut"),
    "refuses": Behaviour(dimensions="refuse"),
    "scaled": Behaviour(rows="scaled"),
    "not_normalised": Behaviour(rows="not_normalised"),
    "shuffled": Behaviour(order="shuffled"),
    "no_index": Behaviour(order="no_index"),
    "floats_only": Behaviour(encodings="floats_only"),
    "refuses_base64": Behaviour(encodings="refuses_base64"),
    "no_usage": Behaviour(reports_tokens=False),
    "gzip": Behaviour(gzip=True),
}


@pytest.mark.parametrize("dimensions", [NATIVE, 1024, 32])
@pytest.mark.parametrize("mischief", MISCHIEF)
def test_vectors_are_native_then_cut_and_normalised_here(
    server: SimulatedServer, configure: Configure, mischief: str, dimensions: int
) -> None:
    server.behaviour = MISCHIEF[mischief]
    with Embedder(configure(server, dimensions=dimensions)) as embedder:
        assert_right(embedder.embed_documents(TEXTS), TEXTS, dimensions)
        assert str(embedder.space) == f"qwen3-embedding-8b/{dimensions}"
    assert all("dimensions" not in request.body for request in server.requests)


HOSTILE = {
    "gaps": Behaviour(order="shuffled_with_gaps"),
    "duplicate": Behaviour(order="duplicate"),
    "one_missing": Behaviour(order="one_missing"),
    "one_extra": Behaviour(order="one_extra"),
    "null": Behaviour(rows="null"),
    "nan": Behaviour(rows="nan"),
    "infinite": Behaviour(rows="infinite"),
    "zero": Behaviour(rows="zero"),
    "padded": Behaviour(rows="padded"),
    "cut": Behaviour(rows="cut"),
    "long": Behaviour(rows="long"),
    "html_200": Behaviour(always=Reply.html(200)),
    "html_502": Behaviour(always=Reply.html(502)),
    "truncated": Behaviour(always=Reply.truncated()),
    "dropped": Behaviour(always=Reply.dropped()),
    "error_in_200": Behaviour(always=Reply.error_in_200("upstream failed")),
}

HARMLESS_ALONE = {"gaps", "duplicate", "one_extra"}
"""Damage to the order of a list: a text that is sent alone may get its right vector after all."""


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("hostile", HOSTILE)
def test_wrong_vectors_are_never_returned_and_errors_name_offer_and_cause(
    server: SimulatedServer, configure: Configure, hostile: str
) -> None:
    server.behaviour = HOSTILE[hostile]
    with Embedder(configure(server)) as embedder:
        try:
            vectors = embedder.embed_documents(TEXTS)
        except (NoOfferLeft, PartialFailure) as error:
            said = str(error)
        else:
            assert hostile in HARMLESS_ALONE
            assert_right(vectors, TEXTS, NATIVE)
            return
    assert re.search(r"(ollama|mine)/qwen3-embedding-8b: \w+", said)


def test_a_wrong_server_is_left_for_a_right_one(server: SimulatedServer) -> None:
    with SimulatedServer(Behaviour(rows="nan")) as wrong:
        settings = Settings.load(
            providers={
                "wrong": {"kind": "openai-compatible", "base_url": f"{wrong.url}/v1"},
                "right": {"kind": "openai-compatible", "base_url": f"{server.url}/v1"},
            },
            use=["wrong", "right"],
        )
        with Embedder(settings) as embedder:
            result = embedder.embed(TEXTS)
    assert_right(result.vectors, TEXTS, NATIVE)
    assert set(result.offers) == {"right/qwen3-embedding-8b"}


@pytest.mark.usefixtures("hasty")
def test_a_garbage_flood_is_cut_off(server: SimulatedServer, configure: Configure) -> None:
    server.behaviour = Behaviour(always=Reply.garbage(50_000_000))
    with Embedder(configure(server)) as embedder, pytest.raises(NoOfferLeft, match="more than"):
        embedder.embed_documents(TEXTS)


@pytest.mark.usefixtures("hasty")
def test_a_stall_ends_at_the_timeout(server: SimulatedServer, configure: Configure) -> None:
    server.behaviour = Behaviour(latency_seconds=30)
    settings = configure(server, timeout_seconds=0.3)
    with (
        Embedder(settings) as embedder,
        pytest.raises(NoOfferLeft, match=r"did not answer in 0\.3"),
    ):
        embedder.embed_documents(TEXTS)


def test_queries_carry_the_instruction_once_and_documents_none(
    server: SimulatedServer, configure: Configure
) -> None:
    with Embedder(configure(server)) as embedder:
        embedder.embed_query("hello")
        embedder.embed_query("hello", instruction="Find songs")
        embedder.embed_documents(["hello"])
    task = "Given a web search query, retrieve relevant passages that answer the query"
    assert server.texts_seen == [
        f"Instruct: {task}\nQuery:hello",
        "Instruct: Find songs\nQuery:hello",
        "hello",
    ]


def test_texts_arrive_unaltered(server: SimulatedServer, configure: Configure) -> None:
    texts = [
        "  spaces  ",
        "line\nbreak\r\n",
        "tab\t",
        "naïve café 🙂 e\u0301",
        "\x00nul",
        "a" * 5000,
    ]
    with Embedder(configure(server)) as embedder:
        embedder.embed_documents(texts)
    # A long text is preceded by short ones of ours, and by a pair of long ones, by which the server
    # is known to read.
    assert sorted(set(server.texts_seen) - {*PROBES, *pair(2_200)}) == sorted(texts)


def test_equal_texts_are_sent_once_and_answered_each(
    server: SimulatedServer, configure: Configure
) -> None:
    texts = ["a", "b", "a", "a", "c", "b"]
    with Embedder(configure(server)) as embedder:
        assert_right(embedder.embed_documents(texts), texts, NATIVE)
    assert sorted(server.texts_seen) == ["a", "b", "c"]


def test_a_bad_text_harms_no_other(server: SimulatedServer, configure: Configure) -> None:
    server.behaviour = Behaviour(refuse_texts_with="forbidden", refusal="content filter")
    texts = [f"text {number}" for number in range(40)]
    texts[17] = "a forbidden text"
    with (
        Embedder(configure(server)) as embedder,
        pytest.raises(PartialFailure, match="position 17: bad_input") as caught,
    ):
        embedder.embed_documents(texts)
    result = caught.value.result
    good = [place for place in range(40) if place != 17]
    assert_right(result.vectors[good], [texts[place] for place in good], NATIVE)
    assert np.isnan(result.vectors[17]).all()
    assert "content filter" in result.errors[0].message
    assert "forbidden" not in str(caught.value)


@pytest.mark.parametrize("batch", [32, 128])
def test_one_bad_text_among_a_thousand_costs_a_few_requests(
    server: SimulatedServer, configure: Configure, batch: int
) -> None:
    server.behaviour = Behaviour(refuse_texts_with="forbidden")
    texts = [f"text {number}" for number in range(1_000)]
    texts[777] = "a forbidden text"
    settings = configure(server)
    [(name, table)] = settings.providers.items()
    table = replace(table, max_inputs=batch)
    with Embedder(replace(settings, providers={name: table})) as embedder:
        result = embedder.embed(texts)
    assert [(error.position, error.kind) for error in result.errors] == [(777, "bad_input")]
    assert np.isfinite(np.delete(result.vectors, 777, axis=0)).all()
    assert server.request_count <= ceil(1_000 / batch) + 2 * log2(batch)


def test_empty_texts_are_errors_of_their_own(server: SimulatedServer, configure: Configure) -> None:
    with Embedder(configure(server)) as embedder:
        result = embedder.embed(["a", "", "  \n", "b"])
        assert [(error.position, error.kind) for error in result.errors] == [
            (1, "empty"),
            (2, "empty"),
        ]
        assert_right(result.vectors[[0, 3]], ["a", "b"], NATIVE)
        with pytest.raises(InvalidInput, match="query is empty"):
            embedder.embed_query(" ")
    assert sorted(server.texts_seen) == ["a", "b"]


@pytest.mark.parametrize("wrong", ["a string", [b"bytes"], [None], [1.5], b"bytes"])
def test_what_is_no_list_of_strings_is_refused_before_any_request(
    server: SimulatedServer, configure: Configure, wrong: Any
) -> None:
    with Embedder(configure(server)) as embedder, pytest.raises(InvalidInput, match="expected"):
        embedder.embed_documents(wrong)
    assert server.request_count == 0


def test_a_lone_surrogate_is_an_error_by_position(
    server: SimulatedServer, configure: Configure
) -> None:
    with Embedder(configure(server)) as embedder:
        result = embedder.embed(["fine", "broken \ud800"])
    assert [error[:2] for error in result.errors] == [(1, "bad_input")]


# One object, wherever it is used


def test_the_awaiting_twin_gives_the_same(server: SimulatedServer, configure: Configure) -> None:
    async def run() -> Any:
        async with AsyncEmbedder(configure(server, dimensions=256)) as embedder:
            documents = await embedder.embed_documents(TEXTS)
            query = await embedder.embed_query("q")
        return documents, query

    documents, query = asyncio.run(run())
    assert_right(documents, TEXTS, 256)
    with Embedder(configure(server, dimensions=256)) as embedder:
        assert np.array_equal(embedder.embed_documents(TEXTS), documents)
        assert np.array_equal(embedder.embed_query("q"), query)


def test_a_blocking_embedder_works_inside_a_running_loop(
    server: SimulatedServer, configure: Configure
) -> None:
    with Embedder(configure(server)) as embedder:

        async def run() -> Any:
            return embedder.embed_documents(TEXTS * 30)

        assert_right(asyncio.run(run()), TEXTS * 30, NATIVE)


def test_one_object_in_two_successive_loops(server: SimulatedServer, configure: Configure) -> None:
    embedder = AsyncEmbedder(configure(server))
    for _ in range(2):
        assert_right(asyncio.run(embedder.embed_documents(TEXTS)), TEXTS, NATIVE)


def test_one_object_in_loops_of_several_threads_at_once(
    server: SimulatedServer, configure: Configure
) -> None:
    embedder = AsyncEmbedder(configure(server))

    def run(number: int) -> Any:
        return asyncio.run(embedder.embed_documents([f"text {number}"]))

    with ThreadPoolExecutor(4) as pool:
        for number, vectors in enumerate(pool.map(run, range(12))):
            assert_right(vectors, [f"text {number}"], NATIVE)


def test_one_object_from_eight_threads_at_once(
    server: SimulatedServer, configure: Configure
) -> None:
    barrier = threading.Barrier(8)
    with Embedder(configure(server)) as embedder, ThreadPoolExecutor(8) as pool:

        def run(number: int) -> Any:
            barrier.wait()
            texts = [f"thread {number} text {place}" for place in range(70)]
            return texts, embedder.embed_documents(texts)

        for texts, vectors in pool.map(run, range(8)):
            assert_right(vectors, texts, NATIVE)


def test_places_at_an_offer_are_shared_by_threads(server: SimulatedServer) -> None:
    server.behaviour = Behaviour(latency_seconds=0.05)
    table = {"kind": "openai-compatible", "base_url": f"{server.url}/v1", "max_concurrency": 2}
    settings = Settings.load(providers={"mine": table}, use=["mine"])
    with Embedder(settings) as embedder, ThreadPoolExecutor(8) as pool:
        for vector in pool.map(embedder.embed_query, [f"query {number}" for number in range(12)]):
            assert np.isfinite(vector).all()
    assert server.max_concurrent <= 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_one_object_after_a_fork(server: SimulatedServer, configure: Configure) -> None:
    with Embedder(configure(server)) as embedder:
        embedder.embed_documents(TEXTS * 30)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                assert_right(embedder.embed_documents(["in the child"]), ["in the child"], NATIVE)
                status = 0
            finally:
                os._exit(status)
        assert_right(embedder.embed_documents(["in the parent"]), ["in the parent"], NATIVE)
        assert os.waitpid(child, 0)[1] == 0


def test_cancelling_a_call_cancels_its_requests(
    server: SimulatedServer, configure: Configure
) -> None:
    server.behaviour = Behaviour(latency_seconds=5)

    async def run() -> None:
        async with AsyncEmbedder(configure(server)) as embedder:
            task = asyncio.create_task(embedder.embed_documents(TEXTS))
            await asyncio.sleep(0.3)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert len(asyncio.all_tasks()) == 1
            server.behaviour = Behaviour()
            assert_right(await embedder.embed_documents(["next"]), ["next"], NATIVE)

    asyncio.run(run())


def test_what_was_learnt_is_remembered_by_the_next_embedder(
    server: SimulatedServer, tmp_path: Any
) -> None:
    server.behaviour = Behaviour(encodings="refuses_base64")
    table = {"kind": "openai-compatible", "base_url": f"{server.url}/v1"}
    settings = Settings.load(
        providers={"mine": table}, use=["mine"], state=str(tmp_path / "state.db")
    )
    for _ in range(2):
        with Embedder(settings) as embedder:
            embedder.embed_documents(["x"])
    asked = [request.body["encoding_format"] for request in server.requests]
    assert asked == ["base64", "float", "float"]


def test_an_unwritable_state_does_not_lose_paid_vectors(
    server: SimulatedServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.behaviour = Behaviour(encodings="refuses_base64")
    table = {"kind": "openai-compatible", "base_url": f"{server.url}/v1"}
    settings = Settings.load(providers={"mine": table}, use=["mine"], state="/dev/null/state.db")
    with Embedder(settings) as embedder:
        assert_right(embedder.embed_documents(TEXTS), TEXTS, NATIVE)
    assert "could not remember" in caplog.text


def test_the_first_use_names_who_may_receive_texts(
    server: SimulatedServer, configure: Configure, wire: str, caplog: pytest.LogCaptureFixture
) -> None:
    from qwen_embed_plugins import setup

    setup._announced.clear()
    caplog.set_level("INFO", "qwen_embed_plugins")
    with Embedder(configure(server)) as embedder:
        embedder.embed_query("a")
        embedder.embed_query("b")
    name = "ollama" if wire == "ollama" else "mine"
    assert [record.message for record in caplog.records] == [
        f"texts may be sent to: {name}/qwen3-embedding-8b"
    ]


def test_nobody_is_named_where_no_offer_is_left(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "qwen_embed_plugins")
    with (
        Embedder(use=["lexical"]) as embedder,
        pytest.raises(NoOfferLeft),
    ):
        embedder.embed_query("a")
    assert caplog.records == []


def test_a_failure_of_all_texts_promises_no_others() -> None:
    with (
        Embedder(use=["ollama"]) as embedder,
        pytest.raises(PartialFailure, match=r"position 0: empty: the text is empty$"),
    ):
        embedder.embed_documents([""])


def test_a_key_shows_nowhere(
    server: SimulatedServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "planted-key-4711"
    monkeypatch.setenv("MY_KEY", key)
    table = {
        "kind": "openai-compatible",
        "base_url": f"{server.url}/v1",
        "api_key_env": "MY_KEY",
    }
    settings = Settings.load(providers={"mine": table}, use=["mine"])
    server.behaviour = Behaviour(always=Reply(401, f"wrong key: {key}"))
    with Embedder(settings) as embedder, pytest.raises(NoOfferLeft) as caught:
        embedder.embed_documents(TEXTS)
    assert server.requests[0].headers["authorization"] == f"Bearer {key}"
    shown = [str(caught.value), repr(caught.value.reasons), repr(embedder), repr(settings)]
    assert not any(key in text for text in (*shown, caplog.text, str(settings.explain())))


@pytest.mark.usefixtures("hasty")
def test_servers_are_introduced_once_and_another_space_is_left_out(
    server: SimulatedServer, tmp_path: Any
) -> None:
    with SimulatedServer(Behaviour(seed=1)) as other:
        settings = Settings.load(
            providers={
                "right": {"kind": "openai-compatible", "base_url": f"{server.url}/v1"},
                "other": {"kind": "openai-compatible", "base_url": f"{other.url}/v1"},
            },
            use=["right", "other"],
            state=str(tmp_path / "state.db"),
        )
        with Embedder(settings) as embedder:
            assert_right(embedder.embed_documents(TEXTS), TEXTS, NATIVE)
        server.behaviour = Behaviour(always=Reply(500, "down"))
        for _ in range(2):
            with (
                Embedder(settings) as embedder,
                pytest.raises(NoOfferLeft, match="vectors are not those of right"),
            ):
                embedder.embed_documents(TEXTS)
        assert other.request_count == 1, "the second process knows it already"
        server.behaviour = Behaviour()
        with Embedder(settings) as embedder:
            assert_right(embedder.embed_documents(TEXTS), TEXTS, NATIVE)
        trusting = Settings.load(
            providers={
                **settings.providers,
                "other": replace(settings.providers["other"], trust=True),
            },
            use=["other"],
        )
        with Embedder(trusting) as embedder:
            assert embedder.embed(TEXTS).offers[0] == "other/qwen3-embedding-8b"


def test_a_query_does_not_wait_for_the_end_of_a_bulk_job(server: SimulatedServer) -> None:
    table = {"kind": "openai-compatible", "base_url": f"{server.url}/v1", "max_inputs": 1}
    settings = Settings.load(providers={"mine": table}, use=["mine"], concurrency=2)

    async def run() -> None:
        async with AsyncEmbedder(settings) as embedder:
            bulk = asyncio.create_task(embedder.embed_documents([f"t{n}" for n in range(200)]))
            while server.request_count < 4:  # noqa: ASYNC110  the server has no loop
                await asyncio.sleep(0.001)
            await embedder.embed_query("urgent")
            assert not bulk.done()
            await bulk

    asyncio.run(run())
    place = next(n for n, text in enumerate(server.texts_seen) if "urgent" in text)
    assert place < 100
