"""A state in Postgres that goes bad, is far away, or lets this user do little."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest

from qwen_embed_plugins import ConfigurationError, Embedder, Offer, postgres_books, postgres_place
from qwen_embed_plugins.ledger import Reservation, Use
from qwen_embed_plugins.meters import Meter, Refused
from qwen_embed_plugins.postgres_books import PostgresBooks
from qwen_embed_plugins.postgres_place import VERSION, PostgresPlace
from qwen_embed_plugins.postgres_state import PostgresState
from qwen_embed_plugins.settings import Budget
from qwen_embed_plugins.shared_ledger import SharedLedger
from qwen_embed_plugins.sql_files import state_tables
from qwen_embed_plugins.testing import SimulatedServer
from qwen_embed_plugins.testing.simulation import SimulatedClock
from qwen_embed_plugins.windows import MINUTE
from tests.postgres_servers import Server, embedded_server
from tests.stores import Store

ROOT = Path(__file__).parents[2]
SMALL = "qwen3-embedding-0.6b"
CENT = Decimal("0.01")
DEAR = Use("account", "dear", 100, CENT)
FREE = Use("account", "free", 100, Decimal(0))


@pytest.fixture(autouse=True)
def no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwen_embed_plugins.shared_ledger.REST_SECONDS", 0)


@pytest.fixture
def owner(database: Store) -> Iterator[psycopg.Connection[Any]]:
    """A superuser's connection to the state's database."""
    with psycopg.connect(database.place.address or "", autocommit=True) as connection:
        yield connection


@pytest.fixture
def opened(database: Store) -> Iterator[Callable[..., SharedLedger]]:
    """Makes ledgers on the database, as so many processes would have them."""
    ledgers = []

    def make(usd: str | None = "1", store: Store = database) -> SharedLedger:
        budget = Budget(None if usd is None else Decimal(usd))
        ledgers.append(store.ledger(budget, time.time))
        return ledgers[-1]

    yield make
    for ledger in ledgers:
        ledger.close()


Opened = Callable[..., SharedLedger]


def attempt(ledger: SharedLedger, use: Use = DEAR) -> str | None:
    """Make one attempt that uses all that it may; why not, if it is refused."""
    while (reservation := ledger.reserve(use)) is None:
        refused = ledger.top_up(use)
        if refused is not None:
            return refused.message
    if ledger.settle(reservation, use.tokens, use.cost):
        ledger.write()
    return None


def attempts(ledger: SharedLedger, use: Use = DEAR) -> int:
    """How many a budget allows; nothing else may refuse one."""
    count = 0
    while (refused := attempt(ledger, use)) is None:
        count += 1
    assert "would be overrun" in refused
    return count


def connection_of(ledger: SharedLedger) -> psycopg.Connection[Any]:
    assert isinstance(ledger._books, PostgresBooks)
    assert ledger._books._connection is not None
    return ledger._books._connection


def backend(ledger: SharedLedger) -> int:
    return connection_of(ledger).info.backend_pid


def as_role(store: Store, role: str) -> Store:
    return Store(f"{store.setting}&options={quote(f'-c role={role}')}")


def assert_one_line(message: str | None, *said: str) -> None:
    assert message is not None
    assert "\n" not in message
    for part in (*said, "nothing is spent that cannot be counted"):
        assert part in message


# Connections that end


def test_a_backend_that_was_ended_while_idle_is_not_missed(
    opened: Opened, owner: psycopg.Connection[Any]
) -> None:
    ledger = opened()
    for _ in range(20):
        assert attempt(ledger) is None
        owner.execute("select pg_terminate_backend(%s, 5000)", [backend(ledger)])
    assert attempts(ledger) == 80


def test_a_backend_that_is_ended_in_a_transaction_counts_nothing_too_low(
    database: Store, owner: psycopg.Connection[Any]
) -> None:
    victims: list[int] = []

    def now() -> float:
        while victims:
            owner.execute("select pg_terminate_backend(%s, 5000)", [victims.pop()])
        return time.time()

    ledger = database.ledger(Budget(Decimal(1)), now)
    assert attempt(ledger) is None
    victims.append(backend(ledger))
    ledger.settle(held(ledger), 100, CENT)
    assert database.counted().money >= 2 * 10**10
    assert attempts(ledger) == 98
    ledger.close()
    assert database.counted().money == 10**12


def held(ledger: SharedLedger) -> Reservation:
    while not isinstance(outcome := ledger.reserve(DEAR), Reservation):
        refused = ledger.top_up(DEAR)
        assert refused is None or "terminating connection" in refused.message
    return outcome


def test_a_server_that_restarts_takes_no_count_along(caplog: pytest.LogCaptureFixture) -> None:
    with embedded_server(18) as server, server.database("template1") as name:
        store = Store(server.uri(name))
        ledger, another = (store.ledger(Budget(Decimal(1)), time.time) for _ in range(2))
        for _ in range(10):
            assert attempt(ledger) is None
        reservation = held(ledger)
        server.stop()
        try:
            assert_one_line(
                attempt(another), f"state postgresql:///{name}: ", "see that the server"
            )
            for _ in range(5):
                assert attempt(another, FREE) is None
            assert ledger.settle(reservation, 100, CENT * 50), "more than the record knows of"
            ledger.write()
        finally:
            server.start()
        assert [record.name for record in caplog.records] == ["qwen_embed_plugins"] * 2
        assert store.counted().money >= 11 * 10**10
        assert attempts(ledger) + attempts(another) == 40
        ledger.close()
        another.close()
        assert store.counted().money == 10**12
        assert [line.used.requests for line in store.usage() if line.offer == "free"] == [5]


def test_a_server_that_never_answers_is_given_up() -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as silent:
        port = silent.getsockname()[1]
        store = Store(f"postgresql://app@127.0.0.1:{port}/x?connect_timeout=2")
        assert_one_line(attempt(store.ledger(Budget(None), time.time)), f"app@127.0.0.1:{port}/x")


# Locks


def test_who_waits_for_a_lock_too_long_is_told(
    opened: Opened, owner: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    shorter = postgres_place._BEGIN.replace("lock_timeout = '10s'", "lock_timeout = '50ms'")
    assert shorter != postgres_place._BEGIN
    monkeypatch.setattr(postgres_place, "_BEGIN", shorter)
    ledger = opened()
    assert attempt(ledger) is None
    with owner.transaction():
        owner.execute("select pg_advisory_xact_lock(%s)", [postgres_place.LOCK])
        assert_one_line(attempt(ledger), "lock timeout; somebody keeps the books locked")
        assert attempt(ledger, FREE) is None
    assert attempts(ledger) == 99


def test_a_process_that_stands_still_lets_go_of_the_lock(
    database: Store, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorter = postgres_place._BEGIN.replace("_timeout = '5s'", "_timeout = '100ms'")
    assert shorter != postgres_place._BEGIN
    place = PostgresPlace(database.place)
    with contextlib.closing(place.connect()) as stalled:
        place.make_tables(stalled)
        with monkeypatch.context() as patched:
            patched.setattr(postgres_place, "_BEGIN", shorter)
            place.begin(stalled, alone=True)
        assert attempts(opened()) == 100


def test_many_that_start_at_once_on_an_empty_database_all_begin(database: Store) -> None:
    together = threading.Barrier(8)
    refusals: list[str | None] = []

    def start() -> None:
        ledger = database.ledger(Budget(None), time.time)
        together.wait(30)
        refusals.append(attempt(ledger))
        ledger.close()

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert refusals == [None] * 8
    assert database.counted().requests == 8


@pytest.mark.parametrize("isolation", ["serializable", "repeatable read"])
def test_a_stricter_default_isolation_changes_nothing(
    database: Store, opened: Opened, owner: psycopg.Connection[Any], isolation: str
) -> None:
    owner.execute(
        f"alter database {owner.info.dbname} set default_transaction_isolation to '{isolation}'"
    )
    ledgers = [opened(store=database) for _ in range(4)]
    spent: list[int] = []
    threads = [
        threading.Thread(target=lambda mine=mine: spent.append(attempts(mine))) for mine in ledgers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for ledger in ledgers:
        ledger.close()
    assert len(spent) == 4
    assert sum(spent) + attempts(opened()) == 100


# Poolers in transaction mode


def test_no_transaction_leaves_anything_in_its_session(opened: Opened) -> None:
    ledger = opened()
    for _ in range(20):
        assert attempt(ledger) is None
    session = connection_of(ledger)
    assert session.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    left = """
    select (select count(*) from pg_prepared_statements),
        (select count(*) from pg_locks where pid = pg_backend_pid() and locktype = 'advisory'),
        (select count(*) from pg_listening_channels()),
        (select count(*) from pg_cursors where not is_holdable and name <> ''),
        (select count(*) from pg_settings where source = 'session' and name <> 'client_encoding')
    """
    assert session.execute(left).fetchone() == (0, 0, 0, 0, 0)


def test_each_transaction_may_have_another_session(
    database: Store, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a pooler: between two transactions everything but the database is another."""
    sessions = set()

    class Switching(PostgresPlace):
        def begin(self, connection: psycopg.Connection[Any], *, alone: bool) -> float:
            connection.execute("discard all")
            connection.execute("set search_path = nowhere")
            sessions.add(connection.info.backend_pid)
            return super().begin(connection, alone=alone)

    monkeypatch.setattr(postgres_books, "PostgresPlace", Switching)
    ledger = opened()
    assert attempts(ledger) == 100
    assert sessions
    ledger.close()
    assert database.counted().money == 10**12


# Transactions, and calls over the network


def busy(owner: psycopg.Connection[Any], condition: str) -> int:
    row = owner.execute(
        "select count(*) from pg_stat_activity where application_name = 'qwen-embed state' "
        f"and datname = current_database() and {condition}"
    ).fetchone()
    assert row is not None
    return int(row[0])


def test_no_transaction_is_open_during_a_request_and_none_is_left(
    database: Store, owner: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with SimulatedServer(native=1024) as server:
        table = {"kind": "openai-compatible", "base_url": f"{server.url}/v1", "max_inputs": 1}
        mine = {**table, "price_per_million": "10"}
        embedder = Embedder(
            providers={"mine": mine}, use=["mine"], state=database.setting, model=SMALL
        )
        assert busy(owner, "true") == 0, "nothing is asked before the first text"
        send = embedder._transport.send
        open_transactions = []

        def sending(*arguments: Any) -> Any:
            open_transactions.append(busy(owner, "state <> 'idle'"))
            return send(*arguments)

        monkeypatch.setattr(embedder._transport, "send", sending)
        with embedder:
            embedder.embed(["a"])
            ledger = embedder._setup.ledger
            assert isinstance(ledger, SharedLedger)
            connection = connection_of(ledger)
            assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        assert open_transactions
        assert set(open_transactions) == {0}
        assert connection.closed


# A database that refuses


def full(owner: psycopg.Connection[Any]) -> None:
    owner.execute(
        "create function qwen_embed_state.full() returns trigger language plpgsql as $$ begin "
        "raise exception 'could not extend file' using errcode = 'disk_full'; end $$;"
        + "".join(
            f"create trigger full_ before insert or update on qwen_embed_state.{table} "
            "execute function qwen_embed_state.full();"
            for table in ("tally", "block")
        )
    )


def read_only(owner: psycopg.Connection[Any]) -> None:
    owner.execute(f"alter database {owner.info.dbname} set default_transaction_read_only = on")


def half_gone(owner: psycopg.Connection[Any]) -> None:
    owner.execute("drop table qwen_embed_state.tally")


def newer(owner: psycopg.Connection[Any]) -> None:
    owner.execute("update qwen_embed_state.version set number = 99")


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (full, "could not extend file; free its disk"),
        (read_only, "read-only transaction; name the primary"),
        (half_gone, '"tally" does not exist'),
        (newer, "made by a newer version (schema 99, this one knows 1)"),
    ],
)
def test_with_a_bad_database_only_what_costs_money_is_refused(
    opened: Opened,
    owner: psycopg.Connection[Any],
    caplog: pytest.LogCaptureFixture,
    broken: Callable[[psycopg.Connection[Any]], None],
    said: str,
) -> None:
    assert attempt(opened()) is None
    broken(owner)
    ledger = opened()
    for _ in range(3):
        assert attempt(ledger, FREE) is None
    assert_one_line(attempt(ledger), said)
    assert len(caplog.records) == 1, "said once, not for each attempt"


def test_a_newer_state_is_not_read_either(database: Store, owner: psycopg.Connection[Any]) -> None:
    state = PostgresState(database.place)
    state.learn("e", "n", "v")
    newer(owner)
    for ask in (state.capabilities, database.counts):
        with pytest.raises(ConfigurationError, match="newer version"):
            ask()


def test_tables_that_are_dropped_are_made_again(
    opened: Opened, database: Store, owner: psycopg.Connection[Any]
) -> None:
    ledger = opened()
    for _ in range(20):
        assert attempt(ledger) is None
    owner.execute("drop schema qwen_embed_state cascade")
    assert attempts(ledger) >= 80
    ledger.close()
    assert 80 * 10**10 <= database.counted().money <= 10**12


def test_the_file_and_the_code_agree_on_the_version() -> None:
    assert f"version (number) values ({VERSION})" in state_tables().read_text("utf-8")


# Rights


@pytest.fixture
def role(owner: psycopg.Connection[Any]) -> Iterator[str]:
    name = f"plain_{owner.info.dbname}"
    owner.execute(f"create role {name}")
    yield name
    owner.execute(f"drop owned by {name}; drop role {name}")


def test_a_role_without_rights_is_told_what_an_owner_runs(
    opened: Opened, database: Store, owner: psycopg.Connection[Any], role: str
) -> None:
    plain = as_role(database, role)
    refusal = attempt(opened(store=plain))
    grants = [
        "grant usage on schema qwen_embed_state to ROLE",
        "grant select, insert, update, delete on all tables in schema qwen_embed_state to ROLE",
    ]
    assert_one_line(refusal, "permission denied", f"run {state_tables()} there", *grants)
    assert plain.counts() == []

    owner.execute(state_tables().read_bytes())
    owner.execute(state_tables().read_bytes())  # changes nothing
    assert_one_line(attempt(opened(store=plain)), "permission denied", *grants)
    for grant in grants:
        owner.execute(grant.replace("ROLE", role).encode())
    assert attempts(opened(store=plain)) == 100
    state = PostgresState(plain.place)
    state.learn("e", "n", "v")
    state.keep_probes("e", b"1")
    state.keep_probes("e", b"2")
    assert state.probes()["e"].vectors == b"2"
    with (
        psycopg.connect(plain.place.address or "", autocommit=True) as session,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        session.execute("create table qwen_embed_state.mine ()")


def test_rows_that_a_policy_hides_are_an_error_and_no_smaller_count(
    opened: Opened, database: Store, owner: psycopg.Connection[Any], role: str
) -> None:
    assert attempts(opened()) == 100
    owner.execute(
        f"grant usage on schema qwen_embed_state to {role};"
        f"grant all on all tables in schema qwen_embed_state to {role};"
        "alter table qwen_embed_state.tally enable row level security"
    )
    assert_one_line(attempt(opened(store=as_role(database, role))), "row-level security")


def test_nobodys_tables_stand_in_front_of_ours(
    opened: Opened, database: Store, owner: psycopg.Connection[Any]
) -> None:
    owner.execute(
        "create table public.tally (like pg_class); create table public.version (number int);"
        "insert into public.version values (99);"
        f"alter database {owner.info.dbname} set search_path = public"
    )
    assert attempts(opened()) == 100
    assert database.counted().money == 10**12


# Clocks


def test_a_page_has_the_moment_of_the_database(
    database: Store, owner: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def there() -> float:
        row = owner.execute("select extract(epoch from clock_timestamp())::float8").fetchone()
        assert row is not None
        return float(row[0])

    monkeypatch.setattr(time, "time", lambda: 0.0)
    books = PostgresBooks(database.place)
    before = there()
    with books.page() as page:
        assert before <= page.now <= there()
    books.close()


def test_the_minute_is_the_databases_and_the_wait_is_as_long_here(database: Store) -> None:
    """Two machines, one of them five minutes behind, both ahead or behind of the database."""
    minute = Meter("minute", "account", "", MINUTE, requests=3)
    use = Use("account", "free", 1, Decimal(0), meters=(minute,))
    clocks = [SimulatedClock(time.time() + ahead) for ahead in (-300, 0, 300)]
    ledgers = [
        SharedLedger(PostgresBooks(database.place), Budget(None), clock, tend_seconds=None)
        for clock in clocks
    ]
    for ledger in ledgers:
        assert attempt(ledger, use) is None
        ledger.write()
    for ledger, clock in zip(ledgers, clocks, strict=True):
        refused = ledger.top_up(use)
        assert isinstance(refused, Refused)
        assert refused.until is not None
        assert 50 < refused.until - clock.seconds < 62
        ledger.close()


# Without psycopg


def test_without_psycopg_one_line_names_the_extra() -> None:
    program = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from qwen_embed_plugins import ConfigurationError, Embedder\n"
        "try: Embedder(state='postgresql://db.invalid/x', use=['lexical'], "
        "model='lexical').embed(['a'])\n"
        "except ConfigurationError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "pip install 'qwen-embed-plugins[postgres]'" in done.stdout, done.stderr
    assert done.stdout.count("\n") == 1


def test_a_dear_call_is_refused_in_one_line_and_an_unknown_state_is_no_free_pass(
    made: Callable[..., Embedder], postgres_server: Server
) -> None:
    """What was measured of offers is in the state: who cannot read it must not take any of them."""
    terms = Offer(SMALL, "w", Decimal(0))
    settings = {"state": postgres_server.uri("not_there")}
    embedder = made(offers=[terms], base_url="https://api.example.com", settings=settings)
    with embedder, pytest.raises(ConfigurationError, match='"not_there" does not exist') as caught:
        embedder.embed(["a"])
    assert "\n" not in str(caught.value)
