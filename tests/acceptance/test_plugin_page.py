"""`docs/plugins.md` does what it says: every block is run, as a stranger would who has nothing
else. A block that no test here knows is a failure."""

from __future__ import annotations

import asyncio
import re
import shlex
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import orjson
import pytest

from qwen_embed_plugins import AsyncEmbedder, Embedder, NoOfferLeft, Offer, Provider
from qwen_embed_plugins.plugins import load_plugins
from qwen_embed_plugins.testing import RecordedRequest, Reply, SimulatedServer, reference_vector
from qwen_embed_plugins.types import FaultKind
from tests.documents import Command, blocks_of, commands_of

if TYPE_CHECKING:
    from qwen_embed_plugins.types import EmbedResult

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "plugins.md").read_text("utf-8")
BLOCKS = blocks_of(PAGE)
FILES = {block.file: block.text for block in BLOCKS if block.file}
LONGEST = {
    "qwen_embed_acme.py": 20,
    "qwen_embed_brook.py": 50,
    "qwen_embed_tern.py": 50,
    "qwen_embed_mill.py": 50,
    "qwen_embed_trigrams.py": 50,
}
"""Lines that a module of the page may have, empty ones included."""

MODULES = [Path(name).stem for name in LONGEST]
TESTS = ["test_acme.py", "test_brook.py", "test_tern.py", "test_mill.py", "test_trigrams.py"]
PROVIDERS = {
    "acme": "acme",
    "brook": "brook",
    "tern": "tern",
    "mill": "mill",
    "trigrams": "in-process",
}
"""The plugins by entry point, with the provider that each brings."""

SETTINGS = "qwen-embed.toml"
SCRIPT = "use.py"
KEY = "made-up"
NATIVE = 4096
TEXTS = [f"The {number}th train leaves at nine." for number in range(48)]


def test_every_block_is_run_here() -> None:
    assert len(FILES) == sum(block.file is not None for block in BLOCKS), "a file is shown twice"
    assert set(FILES) == {*LONGEST, *TESTS, "pyproject.toml", SETTINGS, SCRIPT}
    assert Counter(block.language for block in BLOCKS if not block.file) == {
        "sh": 4,  # all commands: see `test_the_commands_are_these`
        "console": 3,  # so here
        "python": 1,  # the use of the model in process
        "toml": 1,  # a server that needs no plugin
    }


@pytest.mark.parametrize("name", LONGEST)
def test_a_module_is_as_short_as_promised(name: str) -> None:
    assert len(FILES[name].splitlines()) <= LONGEST[name]
    compile(FILES[name], name, "exec")


def test_its_test_has_six_lines() -> None:
    assert len(FILES["test_acme.py"].splitlines()) == 6


def commands() -> list[Command]:
    shown = [block for block in BLOCKS if block.language in ("sh", "console")]
    return [command for block in shown for command in commands_of(block)]


def command(words: str) -> Command:
    """The page's first command with these words."""
    return next(command for command in commands() if words in command.line)


def test_the_commands_are_these() -> None:
    """Where no test is named, they are Python's own or a registry's matter."""
    assert [command.line for command in commands()] == [
        "python3 -m venv .venv",
        ". .venv/bin/activate",
        "pip install -e ../qwen-embed-plugins pytest",
        "pip install --editable .",  # `installed`, as below
        "qwen-embed providers acme",  # `test_it_is_listed_as_the_page_shows`
        "python -m pytest -q",  # `test_each_passes_the_contract_by_its_own_test`, as below
        ". .venv/bin/activate",
        "python -m qwen_embed_plugins.testing.simulator --port 8700",  # `simulator`
        "python use.py",  # `test_it_serves_against_the_simulated_server`
        "sed -i.bak s/acme/brook/g pyproject.toml",  # `installed`
        "pip install --editable .",
        "python -m pytest -q",
    ]


def documented() -> set[str]:
    """The names in the first columns of the page's tables."""
    cells = re.findall(r"^\| (`[^|]+?) \|", PAGE, re.M)
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


def test_every_kind_of_fault_field_of_an_offer_and_attribute_is_explained() -> None:
    attributes = {
        name
        for name, value in vars(Provider).items()
        if not name.startswith("_") and not callable(value) and not isinstance(value, classmethod)
    }
    needed = {*get_args(FaultKind), *(item.name for item in fields(Offer)), *attributes}
    assert needed - documented() == {"url"}  # shown by use
    assert "self.url" in PAGE


# A server that needs no plugin


def test_three_lines_make_a_provider_of_a_compatible_server(
    run: Any, server: SimulatedServer
) -> None:
    [text] = [block.text for block in BLOCKS if (block.language, block.file) == ("toml", None)]
    assert len(text.splitlines()) == 3
    Path(SETTINGS).write_text(text.replace("http://10.0.0.5:8000", server.url), "utf-8")
    [line] = re.findall(r"`(qwen-embed embed [^`]+)`", PAGE)
    done = run(*shlex.split(line)[1:])
    assert done.code == 0, done.err
    assert len(done.json[0]) == NATIVE


# The plugins, as their author meets them


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder into which pip has installed the page's plugins, each from a folder of its own with
    the first one's `pyproject.toml`, which the page's command changes."""
    target = tmp_path_factory.mktemp("site")
    sources = []
    for plugin in PROVIDERS:
        source = tmp_path_factory.mktemp(plugin)
        for name in (f"qwen_embed_{plugin}.py", "pyproject.toml", f"test_{plugin}.py"):
            (source / name).write_text(FILES[name], "utf-8")
        rename = command("sed ").line.replace("brook", plugin)
        subprocess.run(shlex.split(rename), cwd=source, check=True)
        sources.append(str(source))
    subprocess.run(
        [
            sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation",
            "--disable-pip-version-check", "--root-user-action=ignore", "--target", str(target),
            *sources,
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return str(target)


def test_it_is_listed_as_the_page_shows(installed: str, run: Any) -> None:
    shown = command("providers acme")
    listed = run(*shlex.split(shown.line)[1:], PYTHONPATH=installed)
    assert shown.printed(listed.out), listed.out


@pytest.mark.parametrize("plugin", PROVIDERS)
def test_three_names_make_a_package_of_each(installed: str, run: Any, plugin: str) -> None:
    changed = [line for line in FILES["pyproject.toml"].splitlines() if "acme" in line]
    assert len(changed) == 3
    found = run("plugins", "--json", PYTHONPATH=installed).json
    [listed] = [item for item in found if item["name"] == plugin]
    assert listed["error"] is None
    assert f"provider {PROVIDERS[plugin]}" in str(listed["provides"])


@pytest.fixture
def simulator(run: Any) -> Iterator[str]:
    """The address of the server that the page's command starts, on a free port."""
    words = shlex.split(command("simulator").line.replace("8700", "0"))
    process = subprocess.Popen(
        [sys.executable, *words[1:]],
        stdout=subprocess.PIPE,
        text=True,
        env=run.environment(),
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.communicate()


def python(code: str, run: Any, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env=run.environment(**variables),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_it_serves_against_the_simulated_server(installed: str, run: Any, simulator: str) -> None:
    Path(SETTINGS).write_text(FILES[SETTINGS].replace("http://127.0.0.1:8700", simulator), "utf-8")
    done = python(FILES[SCRIPT], run, PYTHONPATH=installed)
    assert done.returncode == 0, done.stderr
    assert command(SCRIPT).printed(done.stdout), done.stdout
    assert done.stderr == ""


def test_texts_that_leave_for_a_public_address_are_announced(
    installed: str, run: Any, server: SimulatedServer
) -> None:
    """The simulated server is the proxy here, and refuses: nothing leaves."""
    Path(SETTINGS).write_text(f'[providers.acme]\nproxy = "{server.url}"\n', "utf-8")
    done = python(FILES[SCRIPT], run, PYTHONPATH=installed, ACME_API_KEY=KEY)
    [said] = re.findall(r"`(texts may be sent to: [^`]+)`", PAGE)
    assert done.stderr.splitlines()[0] == said


# Every plugin: its own test, and texts served


@pytest.mark.parametrize("test", TESTS)
def test_each_passes_the_contract_by_its_own_test(test: str, run: Any, tmp_path: Path) -> None:
    folder = tmp_path / "plugin"
    folder.mkdir()
    for name, text in FILES.items():
        if name == test or name in LONGEST:
            (folder / name).write_text(text, "utf-8")
    shown = command("pytest -q")
    done = subprocess.run(
        [sys.executable, *shlex.split(shown.line)[1:], "-p", "no:cacheprovider"],
        cwd=folder,
        # An author has pytest alone; ours has plugins that take longer to load than the test.
        env=run.environment(PYTEST_DISABLE_PLUGIN_AUTOLOAD="1"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    if test != "test_trigrams.py":  # which takes the smaller contract
        assert shown.printed(done.stdout), done.stdout
    summary = done.stdout.splitlines()[-1]
    assert re.fullmatch(r"\d+ passed in .*", summary), summary


def test_the_number_of_passed_tests_is_the_same_in_words() -> None:
    passed = command("pytest -q").output[-1].split()[0]
    assert f"All {passed} pass." in PAGE


def module(name: str) -> ModuleType:
    made = ModuleType(name)
    exec(compile(FILES[f"{name}.py"], f"{name}.py", "exec"), vars(made))  # noqa: S102
    return made


def setup(plugin: ModuleType, provider: str, url: str = "", **table: Any) -> dict[str, Any]:
    """The arguments of an embedder that has this plugin's provider alone."""
    registry = load_plugins(extra={provider: plugin}, found=(), disabled=())
    assert not registry.failed()
    address = {"base_url": url} if url else {}
    return {
        "registry": registry,
        "use": [provider],
        "providers": {provider: {**address, **table}},
        "api_keys": {provider: KEY},
    }


def truth(texts: Sequence[str]) -> Any:
    return np.array([reference_vector(text, NATIVE) for text in texts])


def check_served(result: EmbedResult, texts: Sequence[str]) -> None:
    assert not result.errors
    assert [attempt.fault for attempt in result.attempts if attempt.fault] == []
    np.testing.assert_allclose(result.vectors, truth(texts), atol=1e-6)


def test_the_compatible_one_serves() -> None:
    with (
        SimulatedServer() as server,
        Embedder(**setup(module("qwen_embed_acme"), "acme", f"{server.url}/v1")) as embedder,
    ):
        check_served(embedder.embed(TEXTS), TEXTS)
        assert {request.headers["authorization"] for request in server.requests} == {
            f"Bearer {KEY}"
        }


class Brook:
    """Brook's service: its own wire format, rows in another order, and its own error codes."""

    def __init__(self) -> None:
        self.credit = True
        self.inputs: list[int] = []

    def __call__(self, request: RecordedRequest) -> Reply | None:
        texts = request.body["texts"]
        self.inputs.append(len(texts))
        if not self.credit:
            return Reply(403, body=b'{"code": "no_credit"}')
        if any("endless" in text for text in texts):
            return Reply(400, body=b'{"code": "text_too_long"}')
        rows = [
            {"place": place, "vector": reference_vector(text, NATIVE).tolist()}
            for place, text in enumerate(texts)
        ]
        return Reply(body=orjson.dumps({"rows": rows[::-1], "tokens": 12 * len(texts)}))


def test_the_one_with_a_wire_format_of_its_own_serves() -> None:
    brook = Brook()
    with (
        SimulatedServer(respond=brook) as server,
        Embedder(**setup(module("qwen_embed_brook"), "brook", server.url)) as embedder,
    ):
        check_served(embedder.embed(TEXTS), TEXTS)
        assert max(brook.inputs) == 16
        [error] = embedder.embed(["short", "an endless text"]).errors
        assert (error.position, error.kind) == (1, "too_large")
        brook.credit = False
        with pytest.raises(NoOfferLeft, match="no_credit"):
            embedder.embed(["another"])


class Tern:
    """Tern's service: a token serves two requests, and none without a token."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.left: Counter[str] = Counter()
        self.issued = self.refused = self.expired = self.served = 0

    def __call__(self, request: RecordedRequest) -> Reply | None:
        with self.lock:
            given = request.headers.get("authorization", "")
            if request.path.endswith("/token"):
                return self._issue(given)
            token = given.removeprefix("Bearer ")
            if not self.left[token]:
                self.expired += 1
                return Reply(401, "the token has expired", "authentication_error")
            self.left[token] -= 1
            self.served += 1
            return None

    def _issue(self, given: str) -> Reply:
        if given != f"Basic {KEY}":
            self.refused += 1
            return Reply(400, body=b'{"error": "invalid_client"}')
        self.issued += 1
        self.left[f"token-{self.issued}"] = 2
        return Reply(body=orjson.dumps({"access_token": f"token-{self.issued}"}))


@pytest.fixture
def tern() -> Iterator[tuple[Tern, Callable[..., dict[str, Any]]]]:
    """The service, and the arguments of embedders that use it, two texts a request."""
    service = Tern()
    with SimulatedServer(respond=service) as server:
        plugin = module("qwen_embed_tern")
        yield (
            service,
            lambda **more: setup(plugin, "tern", f"{server.url}/v1", max_inputs=2, **more),
        )


def lists_of_texts() -> list[list[str]]:
    return [[f"Call {call}: {text}" for text in TEXTS] for call in range(6)]


def check_tokens(service: Tern) -> None:
    batches = len(lists_of_texts()) * len(TEXTS) // 2
    assert service.served == batches, "a batch was served twice"
    assert service.expired > 0, "no token ran out: nothing was shown"
    assert batches / 2 <= service.issued <= batches


def test_the_one_with_tokens_serves_several_threads(tern: Any) -> None:
    service, arguments = tern
    with Embedder(**arguments()) as embedder, ThreadPoolExecutor(6) as threads:
        for texts, result in zip(
            lists_of_texts(), threads.map(embedder.embed, lists_of_texts()), strict=True
        ):
            check_served(result, texts)
    check_tokens(service)


def test_the_one_with_tokens_serves_several_tasks(tern: Any) -> None:
    service, arguments = tern

    async def serve() -> list[EmbedResult]:
        async with AsyncEmbedder(**arguments()) as embedder:
            return await asyncio.gather(*map(embedder.embed, lists_of_texts()))

    for texts, result in zip(lists_of_texts(), asyncio.run(serve()), strict=True):
        check_served(result, texts)
    check_tokens(service)


def test_a_wrong_key_for_tokens_is_the_keys_fault_and_no_texts(tern: Any) -> None:
    service, arguments = tern
    with (
        Embedder(**{**arguments(), "api_keys": {"tern": "wrong"}}) as embedder,
        pytest.raises(NoOfferLeft, match="invalid_client") as caught,
    ):
        embedder.embed(TEXTS[:2])
    assert "wrong" not in str(caught.value)
    assert service.refused == 1, "a bad text was looked for"


class Mill:
    """Mill's service: a job is ready when it is asked after for the second time."""

    def __init__(self) -> None:
        self.jobs: list[list[str]] = []
        self.asked: Counter[str] = Counter()
        self.lock = threading.Lock()

    def __call__(self, request: RecordedRequest) -> Reply | None:
        with self.lock:
            if request.path == "/jobs":
                self.jobs.append(request.body["texts"])
                return Reply(202, body=orjson.dumps({"job": len(self.jobs) - 1}))
            self.asked[request.path] += 1
            texts = self.jobs[int(request.path.removeprefix("/jobs/"))]
            if self.asked[request.path] < 2:
                return Reply(202, body=b"{}")
            vectors = [reference_vector(text, NATIVE).tolist() for text in texts]
            return Reply(body=orjson.dumps({"vectors": vectors}))


def test_the_one_with_jobs_serves() -> None:
    plugin, mill = module("qwen_embed_mill"), Mill()
    plugin.Mill.poll_seconds = 0.001
    with (
        SimulatedServer(respond=mill) as server,
        Embedder(**setup(plugin, "mill", server.url)) as embedder,
    ):
        check_served(embedder.embed(TEXTS), TEXTS)
    assert len(mill.jobs) > 1
    assert set(mill.asked.values()) == {2}


def test_the_one_in_process_serves_several_threads_by_its_own_model() -> None:
    plugin = module("qwen_embed_trigrams")
    arguments = {**setup(plugin, "in-process"), "model": "trigrams"}
    with Embedder(**arguments) as embedder, ThreadPoolExecutor(4) as threads:
        first, *others = threads.map(embedder.embed_documents, [TEXTS] * 4)
        assert first.shape == (len(TEXTS), 256)
        assert all((first == other).all() for other in others)
        bread = embedder.embed_query("how to bake bread")
        near = embedder.embed_documents(["baked breads", "night trains"]) @ bread
    assert near[0] > near[1]


def test_the_one_in_process_is_used_as_the_page_shows(installed: str, run: Any) -> None:
    [code] = [block.text for block in BLOCKS if (block.language, block.file) == ("python", None)]
    done = python(code, run, PYTHONPATH=installed)
    assert done.returncode == 0, done.stderr
    same, similar = map(float, done.stdout.strip().strip("[]").split())
    assert same > 0.99 > similar > 0
