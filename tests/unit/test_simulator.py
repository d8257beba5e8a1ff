"""The simulated server is true to its formats, does what its behaviour says, and cleans up."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import orjson
import pytest

from qwen_embed_plugins.spaces import shorten
from qwen_embed_plugins.testing import (
    Behaviour,
    Reply,
    SimulatedServer,
    reference_tokens,
    reference_vector,
)
from qwen_embed_plugins.testing.simulator import RecordedRequest

NATIVE = 64
TEXTS = ["one", "два", "三"]


@pytest.fixture
def server() -> Iterator[SimulatedServer]:
    with SimulatedServer(native=NATIVE) as running:
        yield running


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=5) as opened:
        yield opened


def openai(client: httpx.Client, server: SimulatedServer, **body: Any) -> httpx.Response:
    given = {"model": "m", "input": TEXTS, "encoding_format": "float", **body}
    return client.post(f"{server.url}/v1/embeddings", json=given)


def ollama(client: httpx.Client, server: SimulatedServer, **body: Any) -> httpx.Response:
    return client.post(f"{server.url}/api/embed", json={"model": "m", "input": TEXTS, **body})


def rows(response: httpx.Response) -> Any:
    body = orjson.loads(response.content)
    found = body.get("embeddings") or [item["embedding"] for item in body["data"]]
    return np.asarray(found, dtype=np.float32)


def truth(dimensions: int = NATIVE) -> Any:
    return np.array([reference_vector(text, dimensions) for text in TEXTS])


def test_reference_vector_is_a_unit_vector_that_never_changes() -> None:
    vector = reference_vector("Привет, 世界", 1023)
    assert vector.dtype == np.float32
    assert vector.shape == (1023,)
    assert vector.all()
    assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-6)
    # Written down once, so that a change of Python or NumPy that alters it is seen.
    assert reference_vector("abc", 4) == pytest.approx(KNOWN_ABC, abs=1e-7)


KNOWN_ABC = [0.43350616, 0.66041434, 0.48891211, 0.36998683]


def test_another_length_or_seed_is_another_space() -> None:
    long = shorten(reference_vector("abc", 2048)[None], 1024)[0]
    assert abs(float(long @ reference_vector("abc", 1024))) < 0.2
    assert abs(float(reference_vector("abc", 1024, seed=1) @ reference_vector("abc", 1024))) < 0.2


def test_both_routes_give_the_truth(server: SimulatedServer, client: httpx.Client) -> None:
    assert np.array_equal(rows(ollama(client, server)), truth())
    assert np.array_equal(rows(openai(client, server)), truth())
    data = openai(client, server, encoding_format="base64").json()["data"]
    decoded = [np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in data]
    assert np.array_equal(np.array(decoded), truth())
    assert [item["index"] for item in data] == [0, 1, 2]


def test_tokens_are_counted_on_both_routes(server: SimulatedServer, client: httpx.Client) -> None:
    tokens = sum(map(reference_tokens, TEXTS))
    assert ollama(client, server).json()["prompt_eval_count"] == tokens
    usage = openai(client, server).json()["usage"]
    assert usage == {"prompt_tokens": tokens, "total_tokens": tokens}
    assert server.tokens_served == 2 * tokens
    server.behave(reported_tokens=5)
    assert openai(client, server).json()["usage"]["prompt_tokens"] == 5
    server.behave(reports_tokens=False)
    assert "usage" not in openai(client, server).json()


def test_one_text_may_be_a_bare_string(server: SimulatedServer, client: httpx.Client) -> None:
    assert np.array_equal(rows(openai(client, server, input="one")), truth()[:1])


@pytest.mark.parametrize(
    ("how", "asked", "expected"),
    [
        ("shorten", 16, lambda: shorten(truth(), 16)),
        ("shorten", 64, truth),
        ("shorten", 128, truth),
        ("cut", 16, lambda: truth()[:, :16]),
        ("ignore", 16, truth),
        ("pad", 128, lambda: np.pad(truth(), ((0, 0), (0, 64)))),
        ("pad", 16, lambda: shorten(truth(), 16)),
    ],
)
def test_dimensions(
    server: SimulatedServer, client: httpx.Client, how: str, asked: int, expected: Any
) -> None:
    server.behave(dimensions=how)
    for ask in (openai, ollama):
        assert np.allclose(rows(ask(client, server, dimensions=asked)), expected(), atol=1e-6)


def test_dimensions_refused(server: SimulatedServer, client: httpx.Client) -> None:
    server.behave(dimensions="refuse")
    refused = openai(client, server, dimensions=16)
    assert (refused.status_code, "matryoshka" in refused.text) == (400, True)


@pytest.mark.parametrize(
    ("damage", "shape", "sound"),
    [
        ("scaled", NATIVE, lambda row: np.allclose(row / 3, truth()[0], atol=1e-6)),
        ("not_normalised", NATIVE, lambda row: not 0.99 < np.linalg.norm(row) < 1.01),
        ("null", NATIVE, lambda row: np.isnan(row[0]) and np.isfinite(row[1:]).all()),
        ("infinite", NATIVE, lambda row: np.isnan(row[0])),
        ("zero", NATIVE, lambda row: not row.any()),
        ("padded", NATIVE, lambda row: row[:32].all() and not row[32:].any()),
        ("cut", NATIVE // 2, lambda row: np.array_equal(row, truth()[0, :32])),
        ("long", NATIVE * 2, lambda row: not row[NATIVE:].any()),
    ],
)
def test_damaged_rows(
    server: SimulatedServer, client: httpx.Client, damage: str, shape: int, sound: Any
) -> None:
    server.behave(rows=damage)
    found = rows(openai(client, server))
    assert found.shape == (3, shape)
    assert sound(found[0])


def test_damage_can_be_kept_to_some_texts(server: SimulatedServer, client: httpx.Client) -> None:
    server.behave(rows="zero", rows_with="два")
    found = rows(openai(client, server))
    assert not found[1].any()
    assert np.array_equal(found[[0, 2]], truth()[[0, 2]])


def test_nan_is_the_bare_word_that_json_lacks(
    server: SimulatedServer, client: httpx.Client
) -> None:
    server.behave(rows="nan")
    assert b"[NaN," in openai(client, server).content
    coded = orjson.loads(openai(client, server, encoding_format="base64").content)["data"]
    assert np.isnan(np.frombuffer(base64.b64decode(coded[0]["embedding"]), "<f4")[0])


def test_another_space_and_noise(server: SimulatedServer, client: httpx.Client) -> None:
    server.behave(noise=0.01)
    cosines = (rows(openai(client, server)) * truth()).sum(axis=1)
    assert ((cosines > 0.999) & (cosines < 0.99999)).all()
    server.behave(noise=0.0, seed=3)
    assert (np.abs((rows(openai(client, server)) * truth()).sum(axis=1)) < 0.6).all()


@pytest.mark.parametrize(
    ("order", "indexes"),
    [
        ("in_order", [0, 1, 2]),
        ("no_index", [None, None, None]),
        ("duplicate", [0, 1, 0]),
        ("one_missing", [0, 1]),
        ("one_extra", [0, 1, 2, 3]),
    ],
)
def test_order(
    server: SimulatedServer, client: httpx.Client, order: str, indexes: list[int | None]
) -> None:
    server.behave(order=order)
    data = openai(client, server).json()["data"]
    assert [item.get("index") for item in data] == indexes


def test_shuffled_rows_keep_their_index(server: SimulatedServer, client: httpx.Client) -> None:
    server.behave(order="shuffled")
    data = openai(client, server, input=TEXTS * 5).json()["data"]
    assert [item["index"] for item in data] != list(range(15))
    for item in data:
        expected = reference_vector((TEXTS * 5)[item["index"]], NATIVE)
        assert np.array_equal(np.asarray(item["embedding"], np.float32), expected)
    server.behave(order="shuffled_with_gaps")
    gaps = [item["index"] for item in openai(client, server).json()["data"]]
    assert sorted(gaps) == [0, 5, 10]
    assert np.array_equal(rows(ollama(client, server)), truth())


def test_models_that_are_known(client: httpx.Client) -> None:
    with SimulatedServer(models={"small": 8, "large": 16}) as server:
        assert rows(ollama(client, server, model="small")).shape == (3, 8)
        assert rows(openai(client, server, model="large")).shape == (3, 16)
        missing = ollama(client, server, model="other")
        assert (missing.status_code, missing.json()) == (404, {"error": "model 'other' not found"})
        assert openai(client, server, model="other").json()["error"]["message"]
        tags = client.get(f"{server.url}/api/tags").json()["models"]
        assert [model["name"] for model in tags] == ["small", "large"]
        listed = client.get(f"{server.url}/v1/models").json()["data"]
        assert [model["id"] for model in listed] == ["small", "large"]
        shown = client.post(f"{server.url}/api/show", json={"model": "small"}).json()
        assert shown["model_info"]["qwen3.embedding_length"] == 8
        assert client.get(f"{server.url}/elsewhere").status_code == 404
        assert (server.request_count, len(server.other_requests)) == (4, 4)


def test_native_length_follows_the_size_in_the_name(client: httpx.Client) -> None:
    with SimulatedServer() as server:
        for name, length in (
            ("qwen3-embedding:8b", 4096),
            ("Qwen/Qwen3-Embedding-4B", 2560),
            ("qwen3-embedding:0.6b", 1024),
        ):
            assert rows(ollama(client, server, model=name)).shape == (3, length)


def test_texts_over_the_context(server: SimulatedServer, client: httpx.Client) -> None:
    server.behave(context_tokens=3)
    long = {"input": ["short", "a text of many more tokens"]}
    refused = ollama(client, server, truncate=False, **long)
    message = {"error": "the input length exceeds the context length"}
    assert (refused.status_code, refused.json()) == (400, message)
    cut = ollama(client, server, **long)
    assert np.array_equal(rows(cut)[1], reference_vector("a text o", NATIVE))
    assert openai(client, server, **long).json()["error"]["code"] == "context_length_exceeded"
    server.behave(too_long="cut")
    assert openai(client, server, **long).json()["usage"]["total_tokens"] == 6


def test_refusals(server: SimulatedServer, client: httpx.Client) -> None:
    server.behave(refuse_texts_with="два", refusal="not this one")
    assert openai(client, server).json()["error"]["message"] == "not this one"
    assert ollama(client, server).json() == {"error": "not this one"}
    assert ollama(client, server, input=["one"]).status_code == 200
    server.behave(max_inputs=2, refuse_texts_with=None)
    assert "larger than 2" in openai(client, server).text
    assert openai(client, server, input=[]).status_code == 400
    assert client.post(f"{server.url}/v1/embeddings", content=b"{").status_code == 400


def test_keys(server: SimulatedServer, client: httpx.Client) -> None:
    server.behave(key="right")
    assert openai(client, server).status_code == 401
    server.behave(key_status=403)
    assert openai(client, server).status_code == 403
    client.headers["authorization"] = "Bearer right"
    assert openai(client, server).status_code == 200
    assert "right" not in repr(server.requests[-1])


def test_keys_as_other_services_want_them(server: SimulatedServer, client: httpx.Client) -> None:
    wrong, missing = Reply(403, body=b"Forbidden"), Reply(401, "authorization header missing")
    server.behave(key="right", key_refusal=wrong, key_missing=missing)
    assert openai(client, server).json()["error"]["message"] == "authorization header missing"
    client.headers["authorization"] = "Bearer wrong"
    assert (openai(client, server).status_code, openai(client, server).text) == (403, "Forbidden")
    server.behave(key_header="x-api-key")
    assert openai(client, server).status_code == 401
    client.headers["x-api-key"] = "right"
    assert openai(client, server).status_code == 200


def test_fields_that_a_service_does_not_know(server: SimulatedServer, client: httpx.Client) -> None:
    server.behave(known_parameters=frozenset({"model", "input"}))
    refused = openai(client, server)
    assert (refused.status_code, "'encoding_format'" in refused.text) == (400, True)
    server.behave(known_parameters=frozenset({"model", "input", "encoding_format"}))
    assert openai(client, server).status_code == 200


def test_too_many_inputs_in_the_words_of_a_service(
    server: SimulatedServer, client: httpx.Client
) -> None:
    words = Reply(413, "batch size {count} > maximum allowed batch size {limit}")
    server.behave(max_inputs=2, too_many_inputs=words)
    refused = openai(client, server)
    assert refused.status_code == 413
    assert refused.json()["error"]["message"] == "batch size 3 > maximum allowed batch size 2"


def test_a_named_dialect_holds_for_every_path(client: httpx.Client) -> None:
    with SimulatedServer(native=8, dialect="openai") as server:
        answered = client.post(f"{server.url}/api/embeddings", json={"model": "m", "input": TEXTS})
        assert "data" in answered.json()
        assert ollama(client, server).status_code == 404
    with pytest.raises(ValueError, match=r"no dialect 'opneai'; there are .*ollama, .*openai"):
        SimulatedServer(dialect="opneai")


def test_encodings(server: SimulatedServer, client: httpx.Client) -> None:
    server.behave(encodings="refuses_base64")
    refused = openai(client, server, encoding_format="base64")
    assert (refused.status_code, "encoding_format" in refused.text) == (400, True)
    server.behave(encodings="floats_only")
    assert np.array_equal(rows(openai(client, server, encoding_format="base64")), truth())


def test_gzip(server: SimulatedServer, client: httpx.Client) -> None:
    server.behave(gzip=True)
    answered = openai(client, server)
    assert answered.headers["content-encoding"] == "gzip"
    assert np.array_equal(rows(answered), truth())


def test_scripted_replies_come_first_and_once(
    server: SimulatedServer, client: httpx.Client
) -> None:
    server.script(Reply.rate_limited(1.5), None, Reply.html(), Reply.html(200))
    limited = openai(client, server)
    assert (limited.status_code, limited.headers["retry-after"]) == (429, "1.5")
    assert openai(client, server).status_code == 200
    assert (openai(client, server).status_code, openai(client, server).text[:6]) == (502, "<html>")
    assert openai(client, server).status_code == 200
    server.script(Reply.garbage(101), Reply.error_in_200("upstream failed", 502))
    assert len(openai(client, server).content) == 101
    inside = openai(client, server)
    assert (inside.status_code, inside.json()["error"]["code"]) == (200, 502)


def test_always_and_respond(server: SimulatedServer, client: httpx.Client) -> None:
    server.behave(always=Reply(503, "server busy"))
    assert (ollama(client, server).status_code, openai(client, server).status_code) == (503, 503)
    server.behave(always=None)

    def only_long(request: RecordedRequest) -> Reply | None:
        return Reply(418, "short and stout") if len(request.texts) < 3 else None

    server.respond = only_long
    assert openai(client, server).status_code == 200
    assert openai(client, server, input=["one"]).status_code == 418


def test_connections_that_fail(server: SimulatedServer, client: httpx.Client) -> None:
    server.script(Reply.dropped(), Reply.truncated(), Reply(wait_seconds=30))
    with pytest.raises(httpx.RemoteProtocolError):
        openai(client, server)
    with pytest.raises(httpx.RemoteProtocolError):
        openai(client, server)
    with pytest.raises(httpx.ReadTimeout):
        client.post(f"{server.url}/api/embed", json={"model": "m", "input": "x"}, timeout=0.05)
    assert openai(client, server).status_code == 200


def test_requests_are_recorded_and_concurrency_is_counted(client: httpx.Client) -> None:
    all_arrived = threading.Barrier(4)

    def wait_for_all(request: RecordedRequest) -> None:
        all_arrived.wait(timeout=30)

    with SimulatedServer(native=8, respond=wait_for_all) as server:
        with ThreadPoolExecutor(4) as pool:
            for answered in pool.map(lambda _: ollama(client, server), range(4)):
                assert answered.status_code == 200
        assert server.max_concurrent == 4
        assert server.request_count == 4
        assert server.texts_seen == TEXTS * 4
        assert server.requests[0].headers["content-type"] == "application/json"
        server.forget()
        assert (server.request_count, server.tokens_served) == (0, 0)


def test_closing_frees_stalled_requests_and_threads_and_it_comes_up_at_the_same_address(
    client: httpx.Client,
) -> None:
    before = threading.active_count()
    server = SimulatedServer(Behaviour(latency_seconds=60), native=8).start()
    url = server.url
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ollama, client, server)
        while not server.request_count:
            time.sleep(0.005)
        server.close()
        server.close()
        with pytest.raises(httpx.TransportError):
            waiting.result(timeout=5)
    assert threading.active_count() == before
    with pytest.raises(httpx.ConnectError):
        ollama(client, server)
    server.behave(latency_seconds=0)
    with server:
        assert server.url == url
        assert ollama(client, server).status_code == 200


def test_it_serves_from_another_process(client: httpx.Client) -> None:
    command = [sys.executable, "-m", "qwen_embed_plugins.testing.simulator"]
    arguments = ["--port", "0", "--native", "16", "--model", "m"]
    with subprocess.Popen(
        command + arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    ) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            body = {"model": "m", "input": TEXTS}
            assert np.array_equal(rows(client.post(f"{url}/api/embed", json=body)), truth(16))
        finally:
            process.send_signal(signal.SIGTERM)
        _, complaints = process.communicate(timeout=10)
    assert (process.returncode, complaints) == (0, "")
