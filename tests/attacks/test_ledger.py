"""A budget under processes that crowd, die, fork and sleep, in a file and in Postgres; and a state
file that goes bad. A Postgres that goes bad is in `test_postgres_state.py`."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from qwen_embed_plugins import AsyncEmbedder, BudgetExceeded, ConfigurationError, Embedder, Offer
from qwen_embed_plugins.amounts import NOTHING, Amount, units, usd
from qwen_embed_plugins.books import BLOCK_SECONDS, Books, SQLiteBooks
from qwen_embed_plugins.ledger import DAY_SECONDS, Reservation, Use, attempt
from qwen_embed_plugins.meters import Meter, Refused
from qwen_embed_plugins.postgres_books import PostgresBooks
from qwen_embed_plugins.postgres_place import LOCK
from qwen_embed_plugins.settings import Budget
from qwen_embed_plugins.shared_ledger import SharedLedger
from qwen_embed_plugins.state import SQLiteState
from qwen_embed_plugins.state_file import connect
from qwen_embed_plugins.testing import SimulatedServer
from qwen_embed_plugins.testing.simulation import SimulatedClock
from qwen_embed_plugins.windows import UnderWay
from tests.stores import Store

ROOT = Path(__file__).parents[2]
SMALL = "qwen3-embedding-0.6b"
CENT = Decimal("0.01")
DEAR = Use("account", "dear", 100, CENT)
FREE = Use("account", "free", 100, Decimal(0))

Made = Callable[..., Embedder]
Opened = Callable[..., SharedLedger]


def reserve(ledger: SharedLedger, use: Use) -> Reservation | Refused:
    while (outcome := ledger.reserve(use)) is None:
        refused = ledger.top_up(use)
        if refused is not None:
            return refused
    return outcome


def spend(ledger: SharedLedger, use: Use = DEAR) -> bool:
    """Make one attempt that uses all that it may; False if it is refused."""
    reservation = reserve(ledger, use)
    if isinstance(reservation, Refused):
        return False
    if ledger.settle(reservation, use.tokens, use.cost):
        ledger.write()
    return True


def spend_all(ledger: SharedLedger, use: Use = DEAR) -> int:
    """How many attempts a budget allows."""
    count = 0
    while spend(ledger, use):
        count += 1
    return count


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """For what is of files alone."""
    return tmp_path / "state.db"


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock()


@contextmanager
def opening(store: Store, clock: SimulatedClock) -> Iterator[Opened]:
    """Makes ledgers on one store, as so many processes would have them; no thread tends them."""
    ledgers = []

    def make(usd_per_day: str | None = "1", usd_total: str | None = None) -> SharedLedger:
        limits = [None if text is None else Decimal(text) for text in (usd_per_day, usd_total)]
        ledgers.append(store.ledger(Budget(*limits), clock))
        return ledgers[-1]

    yield make
    for ledger in ledgers:
        ledger.close()


@pytest.fixture
def opened(store: Store, clock: SimulatedClock) -> Iterator[Opened]:
    with opening(store, clock) as make:
        yield make


@pytest.fixture
def in_file(path: Path, clock: SimulatedClock) -> Iterator[Opened]:
    with opening(Store(str(path)), clock) as make:
        yield make


# Budgets over processes and runs


def test_a_budget_is_for_all_processes_and_the_next_run(opened: Opened) -> None:
    assert spend_all(opened()) == 100
    assert spend_all(opened()) == 0
    refused = reserve(opened(), DEAR)
    assert isinstance(refused, Refused)
    assert refused.message.startswith(
        "budget usd_per_day = 1.00 US dollars would be overrun (1.010000); it renews at 00:00 UTC"
    )


def test_what_others_have_in_advance_is_used_once_they_give_it_back(opened: Opened) -> None:
    one, two = opened(), opened()
    for _ in range(40):
        spend(one)
    in_advance = 100 - 40 - spend_all(two)
    assert 0 <= in_advance <= 100 // 16
    one.close()
    assert spend_all(two) == in_advance
    assert spend_all(one) == 0


def test_who_is_idle_gives_back_and_who_waits_for_an_answer_does_not(
    opened: Opened, store: Store, clock: SimulatedClock
) -> None:
    one, two = opened(), opened()
    held = reserve(one, DEAR)
    for _ in range(10):
        spend(one)
    assert isinstance(held, Reservation)
    assert one.tend(), "it was used just now"
    assert one.tend(), "an attempt is under way"
    assert spend_all(two) == 89
    for _ in range(10):  # a long attempt outlives no deadline while its process lives
        clock.seconds += BLOCK_SECONDS / 2
        one.tend()
        spend(two, FREE)
    assert store.counted().money == 100 * 10**10
    one.settle(held, 0, Decimal(0))
    one.tend()
    assert not one.tend()
    assert spend_all(two) == 1


def test_the_days_are_those_of_the_reservations(
    opened: Opened, store: Store, clock: SimulatedClock
) -> None:
    clock.seconds = 1000.5 * DAY_SECONDS
    ledger = opened()
    late = reserve(ledger, DEAR)
    assert isinstance(late, Reservation)
    clock.seconds += DAY_SECONDS
    assert spend_all(ledger) == 100, "a new day, a new dollar"
    ledger.settle(late, 100, CENT)
    clock.seconds -= DAY_SECONDS
    assert spend_all(ledger) == 99, "a clock that is set back gives nothing twice"
    ledger.close()
    assert [line.cost for line in store.usage()] == [1, 1]
    assert (store.usage()[1].day - store.usage()[0].day).days == 1
    assert store.usage(store.usage()[1].day) == store.usage()[1:]


def test_a_total_holds_over_days_and_offers(opened: Opened, clock: SimulatedClock) -> None:
    ledger = opened("1", "1.50")
    assert spend_all(ledger) == 100
    clock.seconds += DAY_SECONDS
    assert spend_all(ledger, Use("other", "offer", 5, CENT)) == 50
    clock.seconds += DAY_SECONDS
    refused = reserve(ledger, DEAR)
    assert isinstance(refused, Refused)
    assert refused.meter.setting == "usd_total"


def test_each_process_goes_by_its_own_budget(opened: Opened) -> None:
    small, large = opened("0.10"), opened("0.50")
    assert spend_all(small) == 10
    assert spend_all(large) == 40
    assert not spend(small)
    assert spend_all(opened("0.20")) == 0, "the budget was lowered"
    assert spend(opened(None))


def test_a_dearer_attempt_than_thought_is_in_the_record_at_once(
    opened: Opened, store: Store
) -> None:
    ledger = opened()
    reservation = reserve(ledger, DEAR)
    assert isinstance(reservation, Reservation)
    assert ledger.settle(reservation, 50_000, Decimal("0.70"))
    ledger.write()
    assert store.counted() == Amount(1, 50_000, 70 * 10**10)
    assert spend_all(opened()) == 30


def test_a_server_that_counts_beyond_all_measure_breaks_no_book(
    opened: Opened, store: Store
) -> None:
    ledger = opened(None)
    for _ in range(20):
        reservation = reserve(ledger, DEAR)
        assert isinstance(reservation, Reservation)
        ledger.settle(reservation, 10**30, Decimal(10) ** 30)
        ledger.write()
    ledger.close()
    [line] = store.usage()
    assert line.used.requests == 20
    assert line.used.tokens > 10**18


def test_money_is_rounded_against_us() -> None:
    assert attempt(1, Decimal("1e-13")) == Amount(1, 1, 1)
    assert usd(units(Decimal("0.000000000001"))) == Decimal("0.000000000001")


def test_threads_share_one_ledger(store: Store, opened: Opened) -> None:
    ledger = opened("10")
    spent: list[int] = []
    threads = [threading.Thread(target=lambda: spent.append(spend_all(ledger))) for _ in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        ledger.tend()
    assert sum(spent) == 1000
    ledger.close()
    assert store.counted() == Amount(1000, 100_000, 10 * 10**12)


def test_what_is_settled_while_the_record_is_written_is_written_next(store: Store) -> None:
    meanwhile: list[Callable[[], object]] = []

    def now() -> float:
        while meanwhile:
            meanwhile.pop()()
        return 1_800_000_000.0

    ledger = store.ledger(Budget(None), now)
    first, second = reserve(ledger, DEAR), reserve(ledger, DEAR)
    assert isinstance(first, Reservation)
    assert isinstance(second, Reservation)
    ledger.settle(first, 1, CENT)
    meanwhile.append(lambda: ledger.settle(second, 2, CENT))
    ledger.write()
    assert not meanwhile
    ledger.close()
    assert store.counted() == Amount(2, 3, 2 * 10**10)


def test_a_transaction_serves_many_attempts_of_several_offers(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = opened("100")
    pages = 0
    page = ledger._books.page

    def counting() -> Any:
        nonlocal pages
        pages += 1
        return page()

    monkeypatch.setattr(ledger._books, "page", counting)
    for _ in range(200):
        assert spend(ledger)
        assert spend(ledger, Use("other", "offer", 100, CENT))
    assert pages < 40


# Processes that crowd and die


def connection_of(books: Books) -> object:
    assert isinstance(books, SQLiteBooks | PostgresBooks)
    return books._database if isinstance(books, SQLiteBooks) else books._connection


CROWD = """
import random, sys, time
from decimal import Decimal
from qwen_embed_plugins.ledger import Use
from qwen_embed_plugins.meters import Meter, Refused
from qwen_embed_plugins.settings import Budget
from qwen_embed_plugins.shared_ledger import SharedLedger
from qwen_embed_plugins.state_place import state_place
from qwen_embed_plugins.stores import books_at

books = books_at(state_place(sys.argv[1]), time.time)
ledger = SharedLedger(books, Budget(Decimal("0.05")), time.time)
chance, spent, refusals = random.Random(int(sys.argv[2])), Decimal(0), 0
while refusals < 3:
    use = Use("account", chance.choice("ab"), 40, Decimal("0.00004"))
    while (held := ledger.reserve(use)) is None:
        held = ledger.top_up(use)
        if held is not None:
            break
    if isinstance(held, Refused):
        refusals += 1
        continue
    tokens = chance.randrange(41)
    ledger.settle(held, tokens, tokens * Decimal("0.000001"))
    spent += tokens * Decimal("0.000001")
ledger.close()
print(spent)
"""


def start(program: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_a_crowd_uses_a_budget_to_its_end_and_not_beyond(
    store: Store, seeded: random.Random
) -> None:
    crowd = [start(CROWD, store.setting, seeded.randrange(2**32)) for _ in range(4)]
    spent = sum(Decimal(process.communicate(timeout=120)[0]) for process in crowd)
    assert [process.returncode for process in crowd] == [0] * 4
    lines = store.usage()
    assert all(line.held == NOTHING for line in lines)
    assert sum(line.cost for line in lines) == spent
    assert Decimal("0.04") < spent <= Decimal("0.05")
    ledger = store.ledger(Budget(Decimal("0.05")), time.time)
    spend_all(ledger, Use("account", "a", 1, Decimal("0.000001")))
    ledger.close()
    assert sum(line.cost for line in store.usage()) == Decimal("0.05")


BUSY = """
import sys
from qwen_embed_plugins import BudgetExceeded, Embedder
url, state, budget = sys.argv[1:]
table = {"kind": "openai-compatible", "base_url": url, "price_per_million": "10",
         "max_inputs": 3}
embedder = Embedder(providers={"mine": table}, use=["mine"], state=state, dimensions=64,
                    model="qwen3-embedding-0.6b", budget={"usd_per_day": budget})
number = 0
while True:
    number += 1
    try:
        embedder.embed([f"text {number} {part} of some length" for part in range(20)])
    except BudgetExceeded:
        pass
    if number == 1:
        print("up", flush=True)
"""


def kill_at_random(store: Store, chance: random.Random, count: int, rounds: int) -> None:
    """So many processes are killed at random moments, again and again, on one file."""
    budget = Decimal("0.2")
    with SimulatedServer(native=1024) as server:
        for _ in range(rounds):
            crowd = [start(BUSY, f"{server.url}/v1", store.setting, budget) for _ in range(count)]
            for process in crowd:
                assert process.stdout is not None
                assert process.stdout.readline() == "up\n"
            for process in crowd:
                time.sleep(chance.uniform(0, 0.3))
                process.send_signal(signal.SIGKILL)
                process.communicate()
        served = server.tokens_served
        requests = sum(request.embeds for request in server.requests)
    assert served > 0
    total = store.counted()
    # Reserved bounds cover all that this server counts, so nothing in flight is to be left out.
    assert total.tokens >= served
    assert total.requests >= requests
    assert usd(total.money) >= served * Decimal("0.00001")
    assert usd(total.money) <= budget


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no kill -9")
def test_the_count_survives_kill_9(store: Store, seeded: random.Random) -> None:
    kill_at_random(store, seeded, 4, 2)
    later = SimulatedClock(time.time() + BLOCK_SECONDS + 1)
    before = store.counted()
    survivor = store.ledger(Budget(None), later)
    spend(survivor)
    survivor.close()
    assert sum((line.used for line in store.usage()), NOTHING) == before + Amount(1, 100, 10**10)


@pytest.mark.chaos
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no kill -9")
def test_the_count_survives_kill_9_many_times(store: Store, seeded: random.Random) -> None:
    kill_at_random(store, seeded, 8, 50)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_takes_neither_block_nor_connection_along(store: Store, opened: Opened) -> None:
    ledger = opened()
    held = reserve(ledger, DEAR)
    assert isinstance(held, Reservation)
    for _ in range(20):
        spend(ledger)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            assert connection_of(ledger._books) is None, "a child must not have one of these"
            assert ledger.reserved == 0
            ledger.abandon(held)
            assert [spend(ledger) for _ in range(20)] == [True] * 20
            ledger.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    ledger.settle(held, 1, CENT)
    assert spend_all(ledger) == 59
    ledger.close()
    assert store.counted().money == 10**12


# A file that goes bad


def test_a_file_that_is_deleted_is_made_again(in_file: Opened, path: Path) -> None:
    ledger = in_file()
    for _ in range(20):
        spend(ledger)
    held = reserve(ledger, DEAR)
    assert isinstance(held, Reservation)
    path.unlink()
    assert spend_all(ledger) >= 80
    ledger.settle(held, 100, CENT)
    ledger.close()
    assert 80 * 10**10 <= Store(str(path)).counted().money <= 10**12
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)


def read_only(database: sqlite3.Connection) -> None:
    database.execute("pragma query_only = on")


def full(database: sqlite3.Connection) -> None:
    database.execute("pragma max_page_count = 1")


def corrupt(database: sqlite3.Connection) -> None:
    raise sqlite3.DatabaseError("database disk image is malformed")


@pytest.mark.parametrize(
    ("broken", "said"), [(read_only, "readonly"), (full, "full"), (corrupt, "malformed")]
)
def test_with_a_bad_file_only_what_costs_money_is_refused(
    in_file: Opened,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    broken: Callable[[sqlite3.Connection], None],
    said: str,
) -> None:
    long_name = Use("account", "x" * 20_000, 100, Decimal(0))  # needs a page that is not there
    spend(in_file())

    def connect_badly(path: Path) -> sqlite3.Connection:
        database = connect(path)
        try:
            broken(database)
        except sqlite3.Error:
            database.close()
            raise
        return database

    ledger = in_file()
    monkeypatch.setattr("qwen_embed_plugins.shared_ledger.REST_SECONDS", 0)
    monkeypatch.setattr("qwen_embed_plugins.books.connect", connect_badly)
    for _ in range(3):
        assert spend(ledger, long_name)
    refused = reserve(ledger, Use("account", "y" * 20_000, 1, CENT))
    assert isinstance(refused, Refused)
    assert said in refused.message
    assert "name another with state" in refused.message
    ledger.write()
    assert len(caplog.records) == 1, "said once, not for each attempt"
    monkeypatch.setattr("qwen_embed_plugins.books.connect", connect)
    ledger.close()
    assert [line.used.requests for line in Store(str(path)).usage() if "x" in line.offer] == [3]


def test_without_a_state_a_free_call_succeeds_and_a_dear_one_is_one_line(made: Made) -> None:
    def embedder(price: int) -> Embedder:
        terms = Offer(SMALL, "w", Decimal(price))
        settings = {"state": "/dev/null/state.db"}
        return made(offers=[terms], base_url="https://api.example.com", settings=settings)

    with embedder(0) as free:
        assert free.embed(["a"]).vectors.shape == (1, 1024)
    with (
        embedder(1) as dear,
        pytest.raises(BudgetExceeded, match="nothing is spent that") as caught,
    ):
        dear.embed(["a"])
    assert "\n" not in str(caught.value)


def test_a_daemon_that_changes_its_folder_keeps_its_books(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Store("state.db").ledger(Budget(Decimal(1)), time.time)
    state = SQLiteState("state.db")
    monkeypatch.chdir(tmp_path)
    spend(ledger)
    state.learn("e", "n", "v")
    ledger.close()
    assert not (tmp_path / "state.db").exists()


def test_a_file_of_the_third_version_keeps_what_it_knows(in_file: Opened, path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.executescript(
            "create table capability (endpoint text, name text, value text, learnt_at real, "
            f"primary key (endpoint, name)) without rowid; "
            f"insert into capability values ('e', 'n', 'v', {time.time()}); "
            "pragma user_version = 3;"
        )
    database.close()
    assert spend_all(in_file()) == 100
    assert SQLiteState(str(path)).capabilities() == {("e", "n"): "v"}


def test_a_file_of_a_newer_version_is_no_place_to_spend_from(in_file: Opened, path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("pragma user_version = 99")
    database.close()
    refused = reserve(in_file(), DEAR)
    assert isinstance(refused, Refused)
    assert "newer version" in refused.message
    with pytest.raises(ConfigurationError, match="newer version"):
        Store(str(path)).usage()


# Both colours


def paid(made: Made, store: Store, **settings: Any) -> Embedder:
    terms = Offer(SMALL, "w", Decimal(1), max_inputs=1)
    return made(
        offers=[terms],
        base_url="https://api.example.com",
        settings={"state": store.setting, **settings},
    )


def test_an_embedder_counts_what_it_used_to_the_token(made: Made, store: Store) -> None:
    with paid(made, store) as embedder:
        result = embedder.embed([f"text {number}" for number in range(100)])
    [line] = store.usage()
    used = Amount(result.usage.requests, result.usage.tokens, line.used.money)
    assert (line.used, line.held) == (used, NOTHING)
    assert (line.account, line.offer, line.cost) == ("made", f"made/{SMALL}", result.cost)


def test_a_bound_holds_the_instruction_too(made: Made, store: Store) -> None:
    with paid(made, store) as embedder:
        embedder._setup.ledger.write = lambda: pytest.fail("beyond its bound")  # type: ignore[method-assign]
        for number in range(5):
            embedder.embed_query(f"q{number}")


def test_a_program_that_closes_nothing_leaves_exact_books(store: Store) -> None:
    with SimulatedServer(native=1024) as server:
        held = "import threading, time\n" + BUSY.replace("while True:", "for number in range(3):")
        keeper = "threading.Thread(target=lambda _: time.sleep(60), args=(embedder,), daemon=True)"
        program = held.replace("number = 0", f"{keeper}.start()\nnumber = 0")
        ended = start(program, f"{server.url}/v1", store.setting, 1)
        ended.communicate(timeout=60)
        assert ended.returncode == 0
        [line] = store.usage()
        assert (line.used.tokens, line.held) == (server.tokens_served, NOTHING)


@contextmanager
def locked(store: Store) -> Iterator[Callable[[], None]]:
    """The record locked by another; gives what unlocks it."""
    spend(store.ledger(Budget(None), time.time))
    place = store.place
    if place.path is not None:
        with closing(sqlite3.connect(place.path, isolation_level=None)) as other:
            other.execute("begin immediate")
            yield other.rollback
    else:
        with psycopg.connect(place.address or "") as another:
            another.execute("select pg_advisory_xact_lock(%s)", [LOCK])
            yield another.rollback


def test_a_locked_record_does_not_stop_the_event_loop(made: Made, store: Store) -> None:
    async def run() -> None:
        embedder: AsyncEmbedder = paid(made, store).awaiting()
        with locked(store) as unlock:
            call = asyncio.create_task(embedder.embed(["a"]))
            # Were the loop stopped, nobody would ever unlock the record.
            await asyncio.sleep(0.2)
            unlock()
            assert (await call).cost > 0
        await embedder.aclose()

    asyncio.run(run())
    assert [line.used.requests for line in store.usage()] == [1, 1]


def test_a_call_that_is_cancelled_while_it_waits_for_the_record_holds_nothing(
    made: Made, store: Store
) -> None:
    async def run() -> None:
        embedder: AsyncEmbedder = paid(made, store).awaiting()
        with locked(store) as unlock:
            call = asyncio.create_task(embedder.embed(["a"]))
            await asyncio.sleep(0.2)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            unlock()
        await embedder.aclose()
        assert embedder._setup.ledger.reserved == 0  # type: ignore[attr-defined]

    asyncio.run(run())
    assert all(line.held == NOTHING for line in store.usage())


# Places under way

NARROW = Meter("flight", "account", "", UnderWay(), requests=2, setting="max_concurrency")
FLYING = Use("account", "free", 1, Decimal(0), meters=(NARROW,))


def test_who_is_always_busy_lets_others_have_their_turn(
    opened: Opened, clock: SimulatedClock
) -> None:
    """A bulk job beside a query of another process, at a server that takes two requests."""
    busy, query = opened(None), opened(None)
    under_way: list[Reservation] = []
    for _ in range(2):
        held = reserve(busy, FLYING)
        assert isinstance(held, Reservation)
        under_way.append(held)
    waited = 0
    for turn in range(100):
        clock.seconds += 0.25
        if turn % 4 == 0:
            busy.tend()
        busy.settle(under_way.pop(0), 1, Decimal(0))
        again = reserve(busy, FLYING)
        if isinstance(again, Reservation):
            under_way.append(again)
        if turn % 2 == 0:
            waited += 1
            mine = reserve(query, FLYING)
            if isinstance(mine, Reservation):
                break
    else:
        pytest.fail("the query waited for ever")
    assert waited <= 6, "asked twice a second, for three seconds at most"
    refused = reserve(busy, FLYING)
    assert isinstance(refused, Refused) or len(under_way) < 2
    query.settle(mine, 1, Decimal(0))
    query.close()
    for held in under_way:
        busy.settle(held, 1, Decimal(0))
    clock.seconds += 4  # nobody waits any more
    assert isinstance(reserve(busy, FLYING), Reservation)
    assert isinstance(reserve(busy, FLYING), Reservation)


def test_who_waited_longer_comes_first_and_nobody_waits_for_each_other(
    opened: Opened, clock: SimulatedClock
) -> None:
    ledgers = [opened(None) for _ in range(4)]
    holding = [reserve(ledgers[0], FLYING) for _ in range(2)]
    served: list[int] = []
    for _ in range(60):
        clock.seconds += 0.5
        for number, ledger in enumerate(ledgers[1:], 1):
            if number not in served and isinstance(reserve(ledger, FLYING), Reservation):
                served.append(number)
        if holding:
            held = holding.pop()
            assert isinstance(held, Reservation)
            ledgers[0].settle(held, 1, Decimal(0))
        ledgers[0].tend()
    assert served == [1, 2], "there are two places, and they were the first to wait"
