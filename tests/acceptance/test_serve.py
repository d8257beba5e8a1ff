"""`qwen-embed serve`, the real command, asked by OpenAI's own clients and by worse ones."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from qwen_embed_plugins.testing import Reply, SimulatedServer, reference_vector

ROOT = Path(__file__).parent.parent.parent
MODEL = "qwen3-embedding-8b"
NATIVE, DIMENSIONS = 4096, 256
TOKEN = "t0ken-of-this-server"
KEY = "pln7ed-k3y-0123456789"
EVERYWHERE = "0.0.0.0"  # noqa: S104  nothing comes to listen there
STARTED = re.compile(r"^embeddings are served, at: http://\S+?:(\d+)/v1, .*$", re.M)

if sys.platform == "win32":
    pytest.skip("Windows sends no SIGTERM to one process", allow_module_level=True)


class Serving:
    """The command in a process of its own, with a settings file that names one provider."""

    def __init__(self, folder: Path, provider: str, *options: str, **environ: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._out, self._err = folder / "out", folder / "err"
        settings = folder / "settings.toml"
        settings.write_text(
            f"dimensions = {DIMENSIONS}\nuse = ['mine']\nstate = '{folder / 'state.db'}'\n"
            f"{provider}",
            "utf-8",
        )
        ours = {
            "PATH": os.environ.get("PATH", ""),
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "error",
            "HOME": str(folder),
            "PLANTED_KEY": KEY,
        }
        command = [sys.executable, "-m", "qwen_embed_plugins", "serve", "--settings", str(settings)]
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [*command, "--port", "0", *options],
                env={**ours, **environ},
                cwd=folder,
                stdout=out,
                stderr=err,
            )
        self.url = f"http://127.0.0.1:{self._port()}"
        self._headers = {"authorization": f"Bearer {TOKEN}"}

    def _port(self) -> str:
        while not (found := STARTED.search(self.err)):
            assert self.process.poll() is None, self.err
            time.sleep(0.01)
        return found[1]

    @property
    def err(self) -> str:
        return self._err.read_text("utf-8")

    def post(self, body: Any, **headers: str) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return httpx.post(
            f"{self.url}/v1/embeddings",
            content=content,
            headers={"content-type": "application/json", **self._headers, **headers},
            trust_env=False,
            timeout=30,
        )

    def get(self, path: str, **headers: str) -> httpx.Response:
        with httpx.Client(trust_env=False) as client:
            return client.get(f"{self.url}{path}", headers={**self._headers, **headers})

    def client(self, key: str = TOKEN) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0)

    def count(self, name: str, **labels: str) -> float:
        """One figure of /metrics."""
        for family in text_string_to_metric_families(self.get("/metrics").text):
            for sample in family.samples:
                if sample.name == f"qwen_embed_server_{name}" and sample.labels == labels:
                    return sample.value
        return 0.0

    def until(self, holds: Callable[[], bool]) -> None:
        """Wait for something that will come; a minute without it is a failure, not a hang."""
        for _ in range(3_000):
            assert self.process.poll() is None, self.err
            if holds():
                return
            time.sleep(0.02)
        raise AssertionError(self.err)

    def ended(self) -> tuple[int, str]:
        """Wait for its end; gives the exit code and its last word."""
        code = self.process.wait(timeout=30)
        self.check()
        return code, self._out.read_text("utf-8")

    def check(self) -> None:
        assert KEY not in self.err
        assert TOKEN not in self.err
        assert "Traceback" not in self.err
        assert "socket.send" not in self.err  # asyncio's complaint of writing to nobody

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def named(server: SimulatedServer, more: str = "") -> str:
    """Settings of a provider that asks this server."""
    return (
        f"[providers.mine]\nkind = 'openai-compatible'\nbase_url = '{server.url}/v1'\n"
        f"api_key_env = 'PLANTED_KEY'\n{more}"
    )


Start = Callable[..., Serving]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts servers of one test, and ends those that the test has not."""
    started: list[Serving] = []

    def begin(provider: str, *options: str, **environ: str) -> Serving:
        folder = tmp_path / f"server{len(started)}"
        serving = Serving(folder, provider, *options, **environ)
        started.append(serving)
        return serving

    yield begin
    for serving in started:
        serving.kill()
        serving.check()


@pytest.fixture(scope="module")
def provider() -> Iterator[SimulatedServer]:
    """What stands behind the server that most tests share."""
    with SimulatedServer(native=NATIVE) as running:
        running.behave(key=KEY, refuse_texts_with="forbidden")
        yield running


@pytest.fixture(scope="module")
def shared(
    provider: SimulatedServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Serving]:
    """One server with a token; in the end it must have gone well."""
    folder = tmp_path_factory.mktemp("shared")
    serving = Serving(folder, named(provider), QWEN_EMBED_SERVER_TOKEN=TOKEN)
    try:
        yield serving
        serving.process.send_signal(signal.SIGTERM)
        code, out = serving.ended()
        assert code == 0
        assert re.fullmatch(r".+; \d+ texts?, \d+ tokens?, \d+\.\d{4} USD \(\d+\.\d s\)\n", out)
    finally:
        serving.kill()


@contextmanager
def refused(kind: type[openai.APIStatusError]) -> Iterator[list[openai.APIStatusError]]:
    caught: list[openai.APIStatusError] = []
    with pytest.raises(kind) as raised:
        yield caught
    caught.append(raised.value)


def assert_right(vectors: Any, texts: list[str]) -> None:
    found = np.asarray(vectors, dtype=np.float64)
    assert found.shape == (len(texts), DIMENSIONS)
    cut = np.stack([reference_vector(text, NATIVE) for text in texts])[:, :DIMENSIONS]
    wanted = cut / np.linalg.norm(cut.astype(np.float64), axis=1, keepdims=True)
    assert (np.einsum("ij,ij->i", found, wanted) > 0.999999).all()
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


# What OpenAI's clients ask


@pytest.mark.parametrize("options", [{}, {"encoding_format": "float"}, {"dimensions": DIMENSIONS}])
def test_vectors_of_a_list(shared: Serving, options: dict[str, Any]) -> None:
    texts = [f"{options} {number} ночной поезд" for number in range(100)]
    with shared.client() as client:
        answer = client.embeddings.create(model=MODEL, input=texts, user="me", **options)
    assert_right([item.embedding for item in answer.data], texts)
    assert [item.index for item in answer.data] == list(range(100))
    assert {item.object for item in answer.data} == {"embedding"}
    assert (answer.object, answer.model) == ("list", MODEL)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 0


def test_both_encodings_are_the_same_to_the_bit(shared: Serving) -> None:
    found = {}
    for encoding in ("float", "base64"):
        body = {"model": MODEL, "input": "to the bit", "encoding_format": encoding}
        [item] = shared.post(body).json()["data"]
        found[encoding] = item["embedding"]
    assert isinstance(found["base64"], str)
    decoded = np.frombuffer(base64.b64decode(found["base64"]), "<f4")
    assert decoded.tolist() == np.asarray(found["float"], np.float32).tolist()


async def test_two_hundred_clients_at_once_each_get_their_own(
    shared: Serving, provider: SimulatedServer
) -> None:
    texts = [f"text of client {number}" for number in range(200)]
    provider.behave(latency_seconds=0.05)
    provider.forget()
    async with openai.AsyncOpenAI(base_url=f"{shared.url}/v1", api_key=TOKEN) as client:
        answers = await asyncio.gather(
            *(client.embeddings.create(model=MODEL, input=text) for text in texts)
        )
    provider.behave(latency_seconds=0)
    assert_right([answer.data[0].embedding for answer in answers], texts)
    assert sorted(provider.texts_seen) == sorted(texts)
    assert provider.request_count < len(texts)
    assert sum(answer.usage.total_tokens for answer in answers) == provider.tokens_served
    assert shared.count("joined_texts_total") >= len(texts) - provider.request_count


def test_queries_carry_their_instruction_and_documents_none(
    shared: Serving, provider: SimulatedServer
) -> None:
    provider.forget()
    more: list[dict[str, Any]] = [
        {},
        {"input_type": "document"},
        {"input_type": "query"},
        {"instruction": "Find trains"},
        {"input_type": "query", "instruction": "Find trains"},
    ]
    with shared.client() as client:
        for extra in more:
            client.embeddings.create(model=MODEL, input="when", extra_body=extra)
    first, second, third, fourth, fifth = provider.texts_seen
    assert first == second == "when"
    assert re.fullmatch(r"Instruct: .{20,}\nQuery:when", third)
    assert fourth == fifth == "Instruct: Find trains\nQuery:when"


def test_models(shared: Serving) -> None:
    with shared.client() as client:
        [model] = client.models.list().data
        assert client.models.retrieve(MODEL) == model
        assert (model.id, model.object) == (MODEL, "model")
        with refused(openai.NotFoundError) as caught:
            client.models.retrieve("Qwen/Qwen3-Embedding-8B")
    assert caught[0].code == "model_not_found"


def test_health_and_metrics(shared: Serving) -> None:
    with httpx.Client(trust_env=False) as client:
        assert client.get(f"{shared.url}/health").json() == {"status": "ok"}
        assert client.get(f"{shared.url}/metrics").status_code == 401
    shared.post({"model": MODEL, "input": "counted"})
    assert shared.count("requests_total", status="200") > 0
    assert shared.count("attempts_total", offer=f"mine/{MODEL}", fault="") > 0
    assert shared.count("tokens_total") > 0
    assert shared.count("under_way") == 0


# What is refused

WRONG: list[tuple[Any, int, str, str | None, str]] = [
    ({"model": "gpt", "input": "a"}, 404, "model_not_found", "model", MODEL),
    ({"input": "a"}, 400, "invalid_value", "model", MODEL),
    ({"model": 5, "input": "a"}, 400, "invalid_value", "model", "a string"),
    ({"model": MODEL}, 400, "invalid_type", "input", "missing or null"),
    ({"model": MODEL, "input": []}, 400, "invalid_value", "input", "empty list"),
    ({"model": MODEL, "input": ""}, 400, "text_empty", "input", "empty"),
    ({"model": MODEL, "input": ["a", " \n"]}, 400, "text_empty", "input", "position 1"),
    ({"model": MODEL, "input": 5}, 400, "invalid_type", "input", "a number"),
    ({"model": MODEL, "input": {"a": "b"}}, 400, "invalid_type", "input", "an object"),
    ({"model": MODEL, "input": ["a", None]}, 400, "invalid_type", "input", "position 1"),
    ({"model": MODEL, "input": ["a", 1]}, 400, "invalid_type", "input", "a number"),
    ({"model": MODEL, "input": [["a"]]}, 400, "invalid_type", "input", "a list"),
    ({"model": MODEL, "input": [True]}, 400, "invalid_type", "input", "true or false"),
    ({"model": MODEL, "input": [1, 2]}, 400, "token_arrays_not_supported", "input", "themselves"),
    ({"model": MODEL, "input": [[1], [2]]}, 400, "token_arrays_not_supported", "input", "check_"),
    ({"model": MODEL, "input": ["a"] * 2049}, 400, "invalid_value", "input", "at most 2048"),
    ({"model": MODEL, "input": "a", "dimensions": 64}, 400, "invalid_value", "dimensions", "256"),
    ({"model": MODEL, "input": "a", "dimensions": True}, 400, "invalid_value", "dimensions", "256"),
    (
        {"model": MODEL, "input": "a", "encoding_format": "int8"},
        400,
        "invalid_value",
        "encoding_format",
        '"float" or "base64"',
    ),
    (
        {"model": MODEL, "input": "a", "input_type": "passage"},
        400,
        "invalid_value",
        "input_type",
        '"query" or "document"',
    ),
    (
        {"model": MODEL, "input": "a", "input_type": "document", "instruction": "x"},
        400,
        "invalid_value",
        "instruction",
        "no instruction",
    ),
    (
        {"model": MODEL, "input": "a", "instruction": 5},
        400,
        "invalid_value",
        "instruction",
        "string",
    ),
    (
        {"model": MODEL, "input": "a", "input_typ": "query"},
        400,
        "unknown_parameter",
        "input_typ",
        "did you mean 'input_type'?",
    ),
    (b'{"model": NaN}', 400, "invalid_json", None, "not valid JSON"),
    (b'{"model": "' + MODEL.encode() + b'", "input": [NaN]}', 400, "invalid_json", None, "JSON"),
    (b'{"input": "\xff"}', 400, "invalid_json", None, "not valid JSON"),
    (b'{"input": "\\ud800"}', 400, "invalid_json", None, "not valid JSON"),
    (b"[" * 100_000, 400, "invalid_json", None, "not valid JSON"),
    (b"[]", 400, "invalid_json", None, "expected a JSON object"),
    (b"", 400, "invalid_json", None, "not valid JSON"),
    ({"model": MODEL, "input": "forbidden"}, 400, "text_bad_input", "input", "content filter"),
    ({"model": MODEL, "input": ["a", "forbidden"]}, 400, "text_bad_input", "input", "position 1:"),
]


@pytest.mark.parametrize(("body", "status", "code", "param", "said"), WRONG)
def test_wrong_requests(
    shared: Serving, body: Any, status: int, code: str, param: str | None, said: str
) -> None:
    answer = shared.post(body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param), error
    assert error["type"] == "invalid_request_error"
    assert said in error["message"]


def test_positions_of_texts_that_fail_are_named(shared: Serving) -> None:
    texts = ["a", "forbidden 1", "b", "forbidden 2"]
    with shared.client() as client, refused(openai.BadRequestError) as caught:
        client.embeddings.create(model=MODEL, input=texts)
    body: Any = caught[0].body
    assert body["positions"] == [1, 3]
    assert "2 of 4 texts have no vector: position 1: bad_input: " in body["message"]


def test_a_wrong_token_and_none(shared: Serving) -> None:
    with shared.client("another") as client, refused(openai.AuthenticationError) as caught:
        client.embeddings.create(model=MODEL, input="a")
    assert caught[0].code == "invalid_api_key"
    assert TOKEN not in str(caught[0])
    with httpx.Client(trust_env=False) as client_without:
        assert client_without.get(f"{shared.url}/v1/models").status_code == 401


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/embeddings", 405), ("POST", "/embeddings", 404), ("GET", "/", 404)],
)
def test_paths_that_are_not_here(shared: Serving, method: str, path: str, status: int) -> None:
    with httpx.Client(trust_env=False) as client:
        answer = client.request(method, f"{shared.url}{path}", content=b"{}")
    assert answer.status_code == status
    assert "POST /v1/embeddings" in answer.json()["error"]["message"]


def test_ten_megabytes(shared: Serving) -> None:
    with shared.client() as client, refused(openai.APIStatusError) as caught:
        client.embeddings.create(model=MODEL, input="x" * 10_000_000)
    assert (caught[0].status_code, caught[0].code) == (413, "body_too_large")
    assert "this server takes 8,000,000" in str(caught[0])


@pytest.mark.parametrize("framing", ["content-length: 10000000000", "transfer-encoding: chunked"])
def test_a_body_without_end_is_not_read_to_its_end(shared: Serving, framing: str) -> None:
    host, port = shared.url.removeprefix("http://").split(":")
    head = (
        f"POST /v1/embeddings HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {TOKEN}\r\n"
        f"{framing}\r\n\r\n"
    )
    part = b"x" * 100_000
    if "chunked" in framing:
        part = b"%x\r\n%s\r\n" % (len(part), part)
    got = b""
    with socket.create_connection((host, int(port))) as connection:
        connection.settimeout(0.01)
        connection.sendall(head.encode())
        for _ in range(2_000):  # 200 MB; the server has had enough before
            try:
                connection.sendall(part)
            except TimeoutError:
                pass
            except OSError:
                break
            try:
                got += connection.recv(65_536)
            except TimeoutError:
                continue
            except OSError:
                break
            if b"\r\n\r\n" in got:
                break
    assert got.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in got
    assert shared.count("under_way") == 0


def test_a_packed_body_is_refused(shared: Serving) -> None:
    answer = shared.post({"model": MODEL, "input": "a"}, **{"content-encoding": "gzip"})
    assert answer.status_code == 415


def test_a_client_that_leaves_in_the_midst_of_its_answer(shared: Serving) -> None:
    before = shared.count("requests_total", status="200")
    with httpx.Client(trust_env=False, timeout=30) as client:
        body = {"model": MODEL, "input": [f"{number}" for number in range(2_048)]}
        headers = {"authorization": f"Bearer {TOKEN}"}
        with client.stream("POST", f"{shared.url}/v1/embeddings", json=body, headers=headers) as it:
            assert it.status_code == 200
    assert shared.count("requests_total", status="200") == before + 1
    assert shared.post({"model": MODEL, "input": "the next one"}).status_code == 200


def test_a_client_that_leaves_cancels_its_work(shared: Serving, provider: SimulatedServer) -> None:
    provider.behave(latency_seconds=20)
    before = shared.count("requests_total", status="499")
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{shared.url}/v1/embeddings",
            json={"model": MODEL, "input": ["never", "mind"]},
            headers={"authorization": f"Bearer {TOKEN}"},
            trust_env=False,
            timeout=0.5,
        )
    shared.until(lambda: shared.count("requests_total", status="499") > before)
    assert shared.count("under_way") == 0
    provider.behave(latency_seconds=0)


# Starting, ending, and what the settings do not allow


def end_of(*options: str, **environ: str) -> tuple[int, str, str]:
    """Run the command to its end; gives the exit code, its output and its complaint."""
    ours = {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", "PLANTED_KEY": KEY}
    done = subprocess.run(
        [sys.executable, "-m", "qwen_embed_plugins", "serve", *options],
        capture_output=True,
        text=True,
        env={**os.environ, **ours, **environ},
        timeout=30,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("options", "environ", "said"),
    [
        (["--host", EVERYWHERE], {}, "put one into the variable QWEN_EMBED_SERVER_TOKEN"),
        (["--token-env", "NOT_SET"], {}, "expected the name of a variable that is set"),
        (["--host", EVERYWHERE], {"QWEN_EMBED_SERVER_TOKEN": f"{TOKEN} x"}, "without spaces"),
    ],
)
def test_what_is_refused_at_the_start(
    options: list[str], environ: Mapping[str, str], said: str
) -> None:
    code, out, err = end_of("--port", "0", *options, **environ)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1
    assert TOKEN not in err


def test_a_port_that_is_taken_is_told_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        code, _, err = end_of("--port", port)
    assert code == 2
    assert err == f"qwen-embed: port {port} of 127.0.0.1 is taken: choose another with --port\n"


def test_requests_under_way_end_before_the_server_does(start: Start) -> None:
    with SimulatedServer(native=NATIVE) as server:
        server.behave(latency_seconds=1)
        serving = start(named(server))
        texts = [f"late {number}" for number in range(8)]
        with ThreadPoolExecutor(8) as pool, serving.client("none") as client:
            asked = [
                pool.submit(client.embeddings.create, model=MODEL, input=[text, text])
                for text in texts
            ]
            serving.until(lambda: server.request_count >= 8)
            serving.process.send_signal(signal.SIGTERM)
            answers = [future.result() for future in asked]
    for text, answer in zip(texts, answers, strict=True):
        assert_right([item.embedding for item in answer.data], [text, text])
    code, out = serving.ended()
    assert code == 0
    assert out.startswith("8 answered; 16 texts, ")
    assert "stopping, requests_under_way: 8" in serving.err


def test_a_second_signal_aborts(start: Start) -> None:
    with SimulatedServer(native=NATIVE) as server:
        server.behave(latency_seconds=20)
        serving = start(named(server))
        with ThreadPoolExecutor(1) as pool, serving.client("none") as client:
            asked = pool.submit(client.embeddings.create, model=MODEL, input="a")
            serving.until(lambda: server.request_count > 0)
            serving.process.send_signal(signal.SIGINT)
            serving.until(lambda: "stopping" in serving.err)
            time.sleep(1)  # one that follows at once would be taken for the same
            serving.process.send_signal(signal.SIGINT)
            code, _ = serving.ended()
            assert asked.exception() is not None
    assert code == 130
    assert serving.err.splitlines()[-1] == "qwen-embed: interrupted"


def test_more_than_it_takes_is_refused(start: Start) -> None:
    with SimulatedServer(native=NATIVE) as server:
        server.behave(latency_seconds=20)
        serving = start(named(server), "--max-requests", "2")
        with ThreadPoolExecutor(2) as pool, serving.client("none") as client:
            for text in ("one", "two"):
                pool.submit(client.embeddings.create, model=MODEL, input=text)
            serving.until(lambda: serving.count("under_way") == 2)
            answer = serving.post({"model": MODEL, "input": "three"})
            assert serving.get("/health").status_code == 200
            serving.kill()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["error"]["code"] == "overloaded"


def test_without_a_token_only_this_machine_is_answered(start: Start) -> None:
    with SimulatedServer(native=NATIVE) as server:
        serving = start(named(server))
        body = {"model": MODEL, "input": "a"}
        assert serving.post(body).status_code == 200
        assert serving.post(body, host="localhost:1").status_code == 200
        for headers in (
            {"host": "attacker.example"},
            {"origin": "http://attacker.example"},
            {"origin": "null"},
        ):
            answer = serving.post(body, **headers)
            assert (answer.status_code, answer.json()["error"]["param"]) == (403, None)
        assert server.request_count == 2


@pytest.mark.parametrize(
    ("reply", "status", "code"),
    [
        (Reply.rate_limited(900), 429, "rate_limit_exceeded"),
        (Reply(503, f"down: {KEY}", headers={"retry-after": "900"}), 503, "no_offer_left"),
    ],
)
def test_no_offer_left(start: Start, reply: Reply, status: int, code: str) -> None:
    with SimulatedServer(native=NATIVE) as server:
        server.behave(always=reply)
        serving = start(named(server))
        with serving.client("none") as client, refused(openai.APIStatusError) as caught:
            client.embeddings.create(model=MODEL, input="a")
    error = caught[0]
    assert (error.status_code, error.code) == (status, code)
    assert f"mine/{MODEL}: " in str(error)
    assert KEY not in str(error)
    assert int(error.response.headers["retry-after"]) > 800


def test_a_budget_that_is_spent(start: Start) -> None:
    with SimulatedServer(native=NATIVE) as server:
        serving = start("[budget]\nusd_per_day = 0\n" + named(server, "price_per_million = '5'\n"))
        with serving.client("none") as client, refused(openai.RateLimitError) as caught:
            client.embeddings.create(model=MODEL, input="a")
        assert server.request_count == 0
    assert (caught[0].code, caught[0].type) == ("insufficient_quota", "insufficient_quota")
