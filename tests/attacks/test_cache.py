"""A cache under processes that crowd and die, offers that prove to be others, and forks."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

from qwen_embed_plugins import (
    AsyncEmbedder,
    ConfigurationError,
    Embedder,
    EmbedResult,
    NoOfferLeft,
    Offer,
    Settings,
)
from qwen_embed_plugins import router as router_module
from qwen_embed_plugins.errors import BudgetExceeded
from qwen_embed_plugins.spaces import EmbeddingSpace
from qwen_embed_plugins.testing import Behaviour, SimulatedServer, reference_vector
from qwen_embed_plugins.types import Maker
from qwen_embed_plugins.vector_cache import VectorCache
from tests.attacks.conftest import registry_of

ROOT = Path(__file__).parents[2]
SMALL = "qwen3-embedding-0.6b"
TEXTS = [f"text {number}" for number in range(40)]

Made = Callable[..., Embedder]


class Servers:
    """Simulated servers by name, and settings over them with one state and one cache."""

    def __init__(self, folder: Path, stack: ExitStack, **behaviours: Behaviour) -> None:
        self.folder = folder
        self.by_name = {
            name: stack.enter_context(SimulatedServer(behaviour, native=1024))
            for name, behaviour in behaviours.items()
        }

    def settings(self, *use: str, **given: Any) -> Settings:
        tables = given.pop("tables", {})
        table = {
            name: {"kind": "openai-compatible", "base_url": f"{server.url}/v1"}
            | tables.get(name, {})
            for name, server in self.by_name.items()
            if name in use
        }
        files = {"state": str(self.folder / "s.db"), "cache": str(self.folder / "v.db")}
        return Settings.load(model=SMALL, use=list(use), providers=table, **{**files, **given})

    def embed(self, *use: str, texts: list[str] | None = None, **given: Any) -> EmbedResult:
        """What a process of its own gets."""
        with Embedder(self.settings(*use, **given)) as embedder:
            return embedder.embed(texts or TEXTS)


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Callable[..., Servers]]:
    with ExitStack() as stack:
        yield lambda **behaviours: Servers(tmp_path, stack, **behaviours)


@pytest.fixture(autouse=True)
def heeds_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router_module, "RECALL_SECONDS", 0.0)


def was_sent(result: EmbedResult) -> bool:
    return bool(result.attempts)


def is_right(result: EmbedResult, texts: list[str] = TEXTS) -> bool:
    expected = np.stack([reference_vector(text, 1024) for text in texts])
    return bool((np.einsum("ij,ij->i", result.vectors, expected) > 0.999).all())


def makers(result: EmbedResult) -> set[str]:
    return {str(key).partition("/")[0] for key in result.offers}


# An offer that proves to be of another space


def test_what_a_changed_model_gave_is_never_returned_again(
    servers: Callable[..., Servers],
) -> None:
    two = servers(first=Behaviour(), second=Behaviour())
    with Embedder(two.settings("first", "second", canary_every=3)) as worker:
        assert is_right(worker.embed(TEXTS))
        two.by_name["first"].behave(seed=9)
        wrong = [f"{number} after the change" for number in range(20)]
        given = [worker.embed([text]) for text in wrong]
        assert {"first", "second"} == set().union(*map(makers, given)), "found out on the way"
        again = worker.embed(TEXTS + wrong)
    assert is_right(again, TEXTS + wrong)
    assert makers(again) == {"second"}
    assert was_sent(again), "also what it gave before the change: nobody knows when that was"
    later = two.embed("first", "second", texts=TEXTS + wrong)
    assert not was_sent(later)
    assert is_right(later, TEXTS + wrong)


def test_a_refusal_by_another_process_counts_for_what_is_kept(
    servers: Callable[..., Servers],
) -> None:
    two = servers(first=Behaviour(), second=Behaviour())
    with Embedder(two.settings("first", "second")) as worker:
        two.by_name["first"].behave(seed=9)  # from the start on: it sets the measure
        assert makers(worker.embed(TEXTS)) == {"first"}
        with Embedder(two.settings("first", "second")) as person:
            person.verify(against="second", longest=600)
        result = worker.embed(TEXTS)
    assert makers(result) == {"second"}
    assert is_right(result)


def test_who_is_let_in_again_is_not_believed_for_what_it_gave_before(
    servers: Callable[..., Servers],
) -> None:
    """The cache is not even opened while the offer is out."""
    two = servers(first=Behaviour(), second=Behaviour())
    two.by_name["first"].behave(seed=9)
    assert makers(two.embed("first", "second")) == {"first"}
    away = {"cache": str(two.folder / "another.db")}
    with Embedder(two.settings("first", "second", **away)) as person:
        person.verify(against="second", longest=600)
        two.by_name["first"].behave(seed=0)
        assert person.verify(longest=600).all_serve
        assert person.verify(longest=600).all_serve, "twice let in is not forgotten"
    result = two.embed("first", "second")
    assert was_sent(result)
    assert is_right(result)
    assert not was_sent(two.embed("first", "second"))


def test_when_all_get_a_new_model_at_once_nothing_old_is_left(
    servers: Callable[..., Servers],
) -> None:
    two = servers(first=Behaviour(), second=Behaviour())
    with Embedder(two.settings("first", "second")) as person:
        assert person.verify(longest=600).all_serve
        person.embed(TEXTS)
        for server in two.by_name.values():
            server.behave(seed=4)
        assert person.verify(longest=600).all_serve
        result = person.embed(TEXTS)
    assert was_sent(result)
    expected = np.stack([reference_vector(text, 1024, seed=4) for text in TEXTS])
    assert (np.einsum("ij,ij->i", result.vectors, expected) > 0.999).all()


def test_verify_that_finds_all_as_it_was_costs_no_vector_twice(
    servers: Callable[..., Servers],
) -> None:
    two = servers(first=Behaviour(), second=Behaviour(noise=0.01))
    with Embedder(two.settings("first", "second")) as person:
        person.embed(TEXTS)
        assert person.verify(longest=600).all_serve
        assert person.verify(longest=600).all_serve
        assert not was_sent(person.embed(TEXTS))


@pytest.mark.parametrize("still_configured", [True, False])
def test_one_that_is_refused_at_its_first_meeting_is_not_believed_for_what_it_gave_alone(
    servers: Callable[..., Servers], still_configured: bool
) -> None:
    two = servers(odd=Behaviour(seed=5), good=Behaviour())
    assert makers(two.embed("odd")) == {"odd"}, "alone, there is nothing to compare it with"
    both = ("good", "odd")
    with Embedder(two.settings(*both, cache=str(two.folder / "another.db"))) as embedder:
        embedder.embed(["a text"])
        two.by_name["good"].close()
        with pytest.raises(NoOfferLeft, match="are not those of good"):
            embedder.embed(["another text"])
        two.by_name["good"].start()
    result = two.embed(*(both if still_configured else ("good",)))
    assert makers(result) == {"good"}
    assert is_right(result)


def test_one_that_was_never_compared_is_asked_again_where_there_is_a_measure(
    servers: Callable[..., Servers],
) -> None:
    two = servers(odd=Behaviour(seed=5), good=Behaviour())
    two.embed("odd")
    result = two.embed("good", "odd")
    assert makers(result) == {"good"}
    assert is_right(result)
    assert is_right(two.embed("good"))


def test_a_stranger_that_nobody_compared_is_not_believed_where_others_were(
    servers: Callable[..., Servers],
) -> None:
    three = servers(odd=Behaviour(seed=5), good=Behaviour(), noisy=Behaviour(noise=0.01))
    three.embed("odd")
    three.embed("good", "noisy", texts=["a text"])
    assert makers(three.embed("good", "noisy")) == {"good"}


def test_what_an_offer_gave_before_it_was_found_out_in_the_same_call_is_not_kept(
    servers: Callable[..., Servers],
) -> None:
    two = servers(first=Behaviour(), second=Behaviour())
    # The second costs money, so nothing goes there before the first is found out.
    use = ("first", "second")
    small = {"first": {"max_inputs": 4}, "second": {"price_per_million": "0.01"}}
    two.embed(*use, texts=["a text"], cache=str(two.folder / "another.db"))
    two.by_name["first"].behave(seed=9)
    result = two.embed(*use, tables=small, canary_every=3, concurrency=1)
    assert makers(result) == {"first", "second"}
    with closing(sqlite3.connect(two.folder / "v.db")) as database:
        kept = database.execute(
            "select offer from vector join maker on maker.id = vector.maker group by offer"
        ).fetchall()
    assert kept == [(f"second/{SMALL}",)]


def test_what_the_user_vouched_for_is_not_for_those_who_do_not(
    servers: Callable[..., Servers], tmp_path: Path
) -> None:
    terms = Offer(SMALL, "closed", membership="unproven")
    registry = registry_of(offers=[terms], base_url="http://127.0.0.1:1")
    files: dict[str, Any] = {"state": str(tmp_path / "s.db"), "cache": str(tmp_path / "v.db")}

    def embedder(*, use: str = "made", **given: Any) -> Embedder:
        return Embedder(Settings.load(model=SMALL, use=[use], **files, **given), registry=registry)

    with embedder(providers={"made": {"trust": True}}) as trusting:
        trusting.embed(TEXTS)
        assert not was_sent(trusting.embed(TEXTS))
    with embedder() as another, pytest.raises(NoOfferLeft, match="unproven"):
        another.embed(TEXTS)
    with embedder(use="ollama") as third, pytest.raises(NoOfferLeft):
        third.embed(TEXTS)
    with embedder(providers={"made": {"trust": True}}) as trusting:
        assert not was_sent(trusting.embed(TEXTS)), "it is still there"


def test_with_verified_offers_alone_nobody_unmeasured_is_believed(
    servers: Callable[..., Servers],
) -> None:
    one = servers(first=Behaviour())
    one.embed("first")
    with Embedder(one.settings("first", parity="verified")) as strict:
        with pytest.raises(NoOfferLeft, match="not measured yet"):
            strict.embed(TEXTS)
        strict.verify(longest=600)
        assert not was_sent(strict.embed(TEXTS))


# Without a network, without offers


def test_what_is_known_needs_no_server_no_key_and_no_offer(
    servers: Callable[..., Servers],
) -> None:
    two = servers(first=Behaviour(), second=Behaviour())
    use = ("first", "second")
    with Embedder(two.settings(*use)) as embedder:
        embedder.embed(TEXTS)
        query = embedder.embed_query("text 1")
    for server in two.by_name.values():
        server.close()
    with Embedder(two.settings(*use)) as offline:
        result = offline.embed([*TEXTS, "", TEXTS[0]])
        assert is_right(replace(result, vectors=result.vectors[:40]))
        assert np.array_equal(result.vectors[41], result.vectors[0])
        assert [(error.position, error.kind) for error in result.errors] == [(40, "empty")]
        assert not result.attempts
        assert result.cost == 0
        assert (result.usage.tokens, result.usage.requests) == (0, 0)
        assert np.array_equal(offline.embed_query("text 1"), query)
        with pytest.raises(NoOfferLeft):
            offline.embed_query("text 2")
    files = {name: getattr(two.settings(*use), name) for name in ("state", "cache")}
    with Embedder(model=SMALL, use=["deepinfra"], **files) as keyless:
        assert not keyless._setup.catalogue.offers
        assert makers(keyless.embed(TEXTS)) == {"first"}


def test_what_is_known_is_free_where_the_budget_is_spent(
    servers: Callable[..., Servers],
) -> None:
    one = servers(dear=Behaviour())
    priced: dict[str, Any] = {"tables": {"dear": {"price_per_million": "10"}}}
    paid = one.embed("dear", **priced)
    assert paid.cost > 0
    broke: dict[str, Any] = {**priced, "budget": {"usd_per_day": 0}}
    assert one.embed("dear", **broke).cost == 0
    partly = one.embed("dear", texts=["new", *TEXTS], **broke)
    assert [(error.position, error.kind) for error in partly.errors] == [(0, "no_offer")]
    assert "budget usd_per_day = 0" in partly.errors[0].message
    with pytest.raises(BudgetExceeded):
        one.embed("dear", texts=["new"], **broke)


# Processes

CROWD = """
import random, sys
import numpy as np
from qwen_embed_plugins.spaces import EmbeddingSpace
from qwen_embed_plugins.testing import reference_vector
from qwen_embed_plugins.types import Maker
from qwen_embed_plugins.vector_cache import VectorCache

path, seed, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
cache, chance, space = VectorCache(path, 1), random.Random(seed), EmbeddingSpace("toy", 512)
maker, hits = Maker(f"offer{seed % 3}/toy", f"http://{seed % 3} toy", True), 0
print("up", flush=True)
while rounds:
    rounds -= 1
    texts = [f"text {chance.randrange(900)}" for _ in range(60)]
    texts = list(dict.fromkeys(texts))
    for place, kept in cache.look_up(space, "document", None, texts, lambda maker: 0.0).items():
        assert kept.vector.tobytes() == reference_vector(texts[place], 512).tobytes()
        hits += 1
    rows = np.stack([reference_vector(text, 512) for text in texts])
    cache.keep(space, "document", None, texts, rows, dict.fromkeys(range(len(texts)), maker), 1.0)
print(hits)
"""


def start(program: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True)


def test_a_crowd_shares_one_file_within_its_bound(tmp_path: Path, seeded: random.Random) -> None:
    path = tmp_path / "v.db"
    crowd = [start(CROWD, path, seeded.randrange(2**32), 25) for _ in range(4)]
    for process in crowd:
        said, wrong = process.communicate(timeout=120)
        assert process.returncode == 0, wrong
        assert wrong == "", "nobody waited in vain"
        assert int(said.split()[1]) > 100
    assert sum(file.stat().st_size for file in tmp_path.glob("v.db*")) <= 1_000_000


def test_a_writer_that_is_killed_leaves_a_whole_file(tmp_path: Path, seeded: random.Random) -> None:
    path = tmp_path / "v.db"
    for _ in range(4):
        writer = start(CROWD, path, seeded.randrange(2**32), -1)
        assert writer.stdout is not None
        writer.stdout.readline()
        before = path.stat().st_mtime_ns if path.exists() else 0
        while not path.exists() or path.stat().st_mtime_ns == before:
            assert writer.poll() is None
        for _ in range(seeded.randrange(200)):
            path.stat()
        writer.send_signal(signal.SIGKILL)
        writer.communicate(timeout=60)
        reader = start(CROWD, path, 7, 3)  # checks all that it finds
        _, wrong = reader.communicate(timeout=60)
        assert (reader.returncode, wrong) == (0, "")
        with closing(sqlite3.connect(path)) as database:
            assert database.execute("pragma integrity_check").fetchone() == ("ok",)


def test_two_embedders_in_two_processes_pay_once(
    servers: Callable[..., Servers],
) -> None:
    one = servers(first=Behaviour())
    settings = one.settings("first")
    program = (
        "import sys; from qwen_embed_plugins import Embedder\n"
        "table = {'kind': 'openai-compatible', 'base_url': sys.argv[1]}\n"
        "with Embedder(model=sys.argv[2], use=['first'], providers={'first': table},\n"
        "              state=sys.argv[3], cache=sys.argv[4]) as embedder:\n"
        "    print(len(embedder.embed(['one', 'two', 'three']).attempts))\n"
    )
    url = f"{one.by_name['first'].url}/v1"
    for expected in ("1", "0"):
        process = start(program, url, SMALL, settings.state, settings.cache)
        said, wrong = process.communicate(timeout=60)
        assert said.strip() == expected, wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_fork_in_the_midst_of_reading_and_writing_breaks_nothing(tmp_path: Path) -> None:
    cache = VectorCache(str(tmp_path / "v.db"), 10)
    space, maker = EmbeddingSpace("toy", 512), Maker("a/toy", "http://a toy", True)
    texts = [f"text {number}" for number in range(300)]
    rows = np.stack([reference_vector(text, 512) for text in texts])
    stop = threading.Event()

    def use() -> int:
        cache.keep(space, "document", None, texts, rows, dict.fromkeys(range(300), maker), 1.0)
        return len(cache.look_up(space, "document", None, texts, lambda maker: 0.0))

    def busy() -> None:
        while not stop.is_set():
            use()

    threads = [threading.Thread(target=busy) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(12):
            child = os.fork()
            if not child:
                os._exit(0 if use() == 300 else 1)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert use() == 300
    with closing(sqlite3.connect(tmp_path / "v.db")) as database:
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)


READS = """
import os, sys
from qwen_embed_plugins.spaces import EmbeddingSpace
from qwen_embed_plugins.testing import reference_vector
from qwen_embed_plugins.types import Maker
from qwen_embed_plugins.vector_cache import VectorCache

cache, space = VectorCache(sys.argv[1], 1, lambda: 1e10), EmbeddingSpace("toy", 64)
rows = {text: reference_vector(text, 64)[None] for text in "ab"}
if os.geteuid() == 0:
    os.seteuid(65534)  # root may write anywhere
for text, row in rows.items():
    cache.keep(space, "document", None, [text], row, {0: Maker("a/toy", "a", True)}, 1.0)
print(sorted(cache.look_up(space, "document", None, ["a", "b"], lambda maker: 0.0)))
"""


@pytest.mark.parametrize(
    ("folder_mode", "found"),
    [(0o777, "[0]"), (0o555, "[]")],
)
def test_a_file_that_may_not_be_written_costs_no_call_and_is_said_once(
    folder_mode: int, found: str
) -> None:
    with TemporaryDirectory() as name:
        path = Path(name) / "v.db"
        cache, row = VectorCache(str(path), 1), reference_vector("a", 64)[None]
        makers = {0: Maker("a/toy", "a", True)}
        cache.keep(EmbeddingSpace("toy", 64), "document", None, ["a"], row, makers, 1.0)
        path.chmod(0o444)
        path.parent.chmod(folder_mode)
        reader = start(READS, path)
        answer, wrong = reader.communicate(timeout=60)
        path.parent.chmod(0o700)
    assert reader.returncode == 0, wrong
    assert answer.strip() == found
    assert wrong.count("\n") == 1
    assert "readonly database" in wrong


# Colours and settings


def test_a_locked_file_does_not_stop_the_event_loop(made: Made, tmp_path: Path) -> None:
    path = tmp_path / "v.db"
    settings = {"cache": str(path), "state": str(tmp_path / "s.db")}
    with made(settings=settings) as embedder:
        embedder.embed(["a"])
        other = sqlite3.connect(path, isolation_level=None)

        async def run() -> EmbedResult:
            twin: AsyncEmbedder = embedder.awaiting()
            other.execute("begin immediate")
            call = asyncio.create_task(twin.embed(["b"]))
            # Were the loop stopped, nobody would unlock the file in time.
            await asyncio.sleep(0.2)
            assert not call.done()
            other.execute("rollback")
            return await call

        assert was_sent(asyncio.run(run()))
        other.close()
        assert not was_sent(embedder.embed(["a", "b"]))


def test_both_colours_share_one_cache(made: Made, tmp_path: Path) -> None:
    embedder = made(settings={"cache": str(tmp_path / "v.db")})

    async def run() -> tuple[EmbedResult, EmbedResult]:
        twin = embedder.awaiting()
        results = await twin.embed(["b", "a", "b"]), await twin.embed(["c"])
        await twin.aclose()
        return results

    with embedder:
        first = embedder.embed(["a", "b"])
        known, new = asyncio.run(run())
        assert not was_sent(known)
        assert np.array_equal(known.vectors, first.vectors[[1, 0, 1]])
        assert was_sent(new)
        assert not was_sent(embedder.embed(["c"]))


def test_many_threads_use_one_cache(made: Made, tmp_path: Path) -> None:
    with (
        made(settings={"cache": str(tmp_path / "v.db")}) as embedder,
        ThreadPoolExecutor(8) as pool,
    ):
        results = list(pool.map(lambda n: embedder.embed(TEXTS[n % 5 : n % 5 + 9]), range(40)))
        assert all(not result.errors for result in results)
        assert not was_sent(embedder.embed(TEXTS[:13]))


def test_without_the_setting_nothing_is_kept(made: Made, tmp_path: Path) -> None:
    with made() as embedder:
        embedder.embed(["a"])
        assert was_sent(embedder.embed(["a"]))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"cache": ""}, "cache = '': expected a non-empty string"),
        ({"cache": 5}, "cache = 5: expected a non-empty string"),
        ({"cache": "postgresql://u:p@h/d"}, "cache: expected the path of a file, not an address"),
        ({"cache": "x.db", "state": "./x.db"}, "cache = 'x.db': this is the state file"),
        ({"cache": "x.db", "cache_megabytes": 0}, "cache_megabytes = 0: expected a whole number"),
        ({"cache_mb": 3}, "unknown setting 'cache_mb'; did you mean 'cache'"),
        ({"cache_size": 3}, "unknown setting 'cache_size'; did you mean 'cache'"),
    ],
)
def test_a_wrong_setting_is_one_line(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Embedder(model=SMALL, **given)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "u:p" not in str(caught.value)


def test_a_home_and_a_relative_path_are_understood(
    made: Made, isolated_settings: Path, tmp_path: Path
) -> None:
    for given, found in (("~/v.db", isolated_settings / "v.db"), ("v.db", Path.cwd() / "v.db")):
        with made(settings={"cache": given}) as embedder:
            embedder.embed(["a"])
        assert found.exists()
