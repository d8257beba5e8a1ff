"""`usage`: what the servers themselves counted, what is left, and what a person sees of it."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from qwen_embed_plugins.amounts import Amount
from qwen_embed_plugins.books import SQLiteBooks
from qwen_embed_plugins.catalogue import build_catalogue
from qwen_embed_plugins.ledger import Use
from qwen_embed_plugins.meters import use_meter
from qwen_embed_plugins.plugins import load_plugins
from qwen_embed_plugins.settings import Budget, Settings
from qwen_embed_plugins.shared_ledger import SQLiteLedger
from qwen_embed_plugins.testing import SimulatedServer

if TYPE_CHECKING:
    from tests.acceptance.conftest import Run

MODEL = "qwen3-embedding-0.6b"
STATE = Path("state.db")
TERMS: dict[str, dict[str, Any]] = {
    "given": {"free_tokens": 1_000_000, "free_until": "2999-12-31", "price_per_million": "0.05"},
    "credit": {"free_usd": "1.5", "price_per_million": "0.10", "account": "team"},
    "paid": {"price_per_million": "0.20", "usd_per_day": "0.5", "requests_per_day": 5000},
    "near": {},
}


@pytest.fixture
def servers(run: Run) -> Iterator[dict[str, SimulatedServer]]:
    """Four servers on different terms, named in a settings file of the working folder."""
    with ExitStack() as stack:
        running = {name: stack.enter_context(SimulatedServer()) for name in TERMS}
        run.settings(
            {
                name: {
                    "kind": "openai-compatible",
                    "base_url": f"{running[name].url}/v1",
                    **terms,
                }
                for name, terms in TERMS.items()
            },
            f'model = "{MODEL}"\nstate = "{STATE}"',
        )
        yield running


def embed(run: Run, name: str, count: int = 40, **options: Any) -> subprocess.Popen[bytes]:
    """A process that embeds as many texts of its own at one offer."""
    source = Path(f"{name}-{os.urandom(4).hex()}.txt")
    source.write_text("\n".join(f"{source} {number}" for number in range(count)), "utf-8")
    return run.start(
        "embed", "--quiet", "--use", name, "--file", source, "--output", f"{source}.json", **options
    )  # fmt: skip


def wait_for(*processes: subprocess.Popen[bytes]) -> None:
    assert [process.wait(timeout=60) for process in processes] == [0] * len(processes)


def tokens(listed: Any) -> dict[str, int]:
    return {entry["offer"].partition("/")[0]: entry["tokens"] for entry in listed}


def served(servers: dict[str, SimulatedServer]) -> dict[str, int]:
    return {name: server.tokens_served for name, server in servers.items() if server.tokens_served}


def by_name(listed: Any) -> dict[str, Any]:
    return {entry["name"]: entry for entry in listed}


# Counts


def test_usage_is_what_the_servers_counted(run: Run, servers: dict[str, SimulatedServer]) -> None:
    wait_for(*[embed(run, name) for name in TERMS for _ in range(2)])
    wait_for(run.start("embed", "--quiet", "one more, wherever", "--output", "out.json"))
    found = run("usage", "--json").json
    assert tokens(found["offers"]) == served(servers)
    requests = {e["offer"].partition("/")[0]: e["requests"] for e in found["offers"]}
    assert requests == {name: server.request_count for name, server in servers.items()}
    assert all(entry["held"]["tokens"] == 0 for entry in found["offers"])

    credited, paid = servers["credit"].tokens_served, servers["paid"].tokens_served
    spent = paid * Decimal("0.20") / 1_000_000
    assert Decimal(found["usd"]["total"]) == Decimal(found["usd"]["today"]) == spent
    assert sum(Decimal(entry["usd"]) for entry in found["days"]) == spent
    assert sum(entry["tokens"] for entry in found["days"]) == sum(served(servers).values())

    grants = by_name(found["grants"])
    assert grants["given"]["left"] == 1_000_000 - servers["given"].tokens_served
    left = Decimal("1.5") - credited * Decimal("0.10") / 1_000_000
    assert Decimal(grants["team"]["left"]) == left
    budgets = {(entry["account"], entry["setting"]): entry for entry in found["budgets"]}
    assert Decimal(budgets[None, "usd_per_day"]["left_usd"]) == 1 - spent
    assert Decimal(budgets["paid", "usd_per_day"]["left_usd"]) == Decimal("0.5") - spent
    assert found["free"]["once_tokens"] == grants["given"]["left"]
    assert found["free"]["credit_tokens"] == int(left * 10_000_000)
    assert found["free"]["offers_without_end"] == [f"near/{MODEL}"]
    assert found["free"]["space"] == f"{MODEL}/1024"


@pytest.mark.skipif(sys.platform == "win32", reason="no kill -9 there")
def test_what_a_killed_process_held_stands_and_is_booked_in_the_end(
    run: Run, servers: dict[str, SimulatedServer]
) -> None:
    wait_for(embed(run, "paid"), embed(run, "given"))
    before = tokens(run("usage", "--json").json["offers"])
    assert before == served(servers)

    answered = servers["paid"].request_count
    servers["paid"].behave(latency_seconds=30)
    killed = embed(run, "paid", 5, stderr=subprocess.DEVNULL)
    while servers["paid"].request_count == answered:
        assert killed.poll() is None
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    servers["paid"].behave(latency_seconds=0)

    shown = run("usage", "--json").json
    assert tokens(shown["offers"]) == before  # nobody knows yet
    [paid] = [entry for entry in shown["offers"] if entry["offer"].startswith("paid/")]
    bound = paid["held"]["tokens"]
    assert before["paid"] + bound >= servers["paid"].tokens_served > before["paid"]
    assert paid["held"]["requests"] >= 1
    held = Decimal(paid["held"]["usd"])
    assert held > 0
    [budget] = [entry for entry in shown["budgets"] if entry["account"] == "paid"]
    assert Decimal(budget["held_usd"]) == held
    assert Decimal(budget["left_usd"]) == Decimal("0.5") - Decimal(budget["used_usd"]) - held
    assert f"Held besides at paid/{MODEL}" in " ".join(run("usage").out.split())

    with closing(sqlite3.connect(STATE)) as database, database:
        database.execute("update block set deadline = 0")  # as if ten minutes had passed
    seen = servers["paid"].tokens_served
    wait_for(embed(run, "paid", 3))
    found = run("usage", "--json").json
    last = servers["paid"].tokens_served - seen
    assert tokens(found["offers"]) == {**before, "paid": before["paid"] + bound + last}
    assert all(entry["held"]["requests"] == 0 for entry in found["offers"])


def test_what_a_process_that_runs_holds_is_shown_apart(
    run: Run, servers: dict[str, SimulatedServer]
) -> None:
    servers["given"].behave(latency_seconds=30)
    running = embed(run, "given", 5, stderr=subprocess.DEVNULL)
    while not servers["given"].request_count:
        assert running.poll() is None
        time.sleep(0.01)
    [grant] = [entry for entry in run("usage", "--json").json["grants"] if entry["name"] == "given"]
    running.kill()
    running.wait()
    assert grant["used"] == 0
    assert grant["held"] >= servers["given"].tokens_served > 0
    assert grant["left"] == 1_000_000 - grant["held"]


# What is no longer set up, and days


def book(day: date, offer: str, amount: Amount, account: str = "") -> None:
    """Write into the state what was used on a day."""
    books = SQLiteBooks(STATE.absolute(), time.time)
    meter = use_meter(account or offer.partition("/")[0], offer)
    key = meter.held_key(0)._replace(period=(day - date(1970, 1, 1)).days)
    with books.page() as page:
        page.book(key, amount)
    books.close()


TODAY = datetime.now(timezone.utc).date()


def test_offers_that_are_gone_are_still_told_of(run: Run, servers: Any) -> None:
    book(TODAY, f"paid/{MODEL}", Amount(1, 5))
    book(TODAY, "gone/qwen3-embedding-8b", Amount(3, 12_345_678, 1_234_567_890_123), "old-team")
    found = {entry["offer"]: entry for entry in run("usage", "--json").json["offers"]}
    gone = found["gone/qwen3-embedding-8b"]
    assert (gone["configured"], gone["account"], gone["tokens"]) == (False, "old-team", 12_345_678)
    assert gone["usd"] == "1.234567890123"
    assert found[f"paid/{MODEL}"]["configured"] is True
    shown = " ".join(run("usage").out.split())
    assert "12,345,678" in shown
    assert "gone/qwen3-embedding-8b (old-team) * 3 " in shown
    assert f"paid/{MODEL} 1 " in shown
    assert "*: not set up any more" in shown
    assert "1.2346 in total" in shown


def test_since_a_day(run: Run, servers: Any) -> None:
    for ago in (0, 1, 6, 7, 400):
        book(TODAY - timedelta(ago), f"paid/{MODEL}", Amount(1, 10 + ago, 10**9))

    def told(*arguments: str) -> list[int]:
        days = run("usage", "--json", *arguments).json["days"]
        return [entry["tokens"] - 10 for entry in days]

    assert told() == [400, 7, 6, 1, 0]
    assert told("--since", "7d") == [6, 1, 0]
    assert told("--since", (TODAY - timedelta(7)).isoformat()) == [7, 6, 1, 0]
    assert told("--since", "999999d") == [400, 7, 6, 1, 0]
    found = run("usage", "--json", "--since", "2d").json
    assert found["since"] == (TODAY - timedelta(1)).isoformat()
    assert [entry["requests"] for entry in found["offers"]] == [2]
    assert found["usd"]["total"] == "0.005"  # whatever the days are
    assert run("usage", "--since", "7d").out.startswith(f"Used since {TODAY - timedelta(6)}")


def test_other_models_are_listed_and_not_added(run: Run, servers: Any) -> None:
    text = Path("qwen-embed.toml").read_text("utf-8")
    Path("qwen-embed.toml").write_text(f"{text}\n[providers.voyage]\nfree_tokens = 2000000\n")
    done = run("usage", "--json", VOYAGE_API_KEY="k")
    voyage = by_name(done.json["grants"])["voyage"]
    assert (voyage["left"], voyage["counts_as_free"]) == (2_000_000, False)
    assert done.json["free"]["once_tokens"] == 1_000_000
    shown = " ".join(run("usage", VOYAGE_API_KEY="k").out.split())
    assert "Not added, since no offer of this space may draw on it now: voyage." in shown


def test_an_unproven_offer_is_not_free_for_the_space_until_it_is_trusted(run: Run) -> None:
    table = {"free": True, "free_until": "2999-12-31"}
    for trusted, tokens in {False: 0, True: 1_000_000}.items():
        run.settings({"dashscope-singapore": {**table, "trust": trusted}}, f'model = "{MODEL}"')
        found = run("usage", "--json", DASHSCOPE_API_KEY="k").json
        grant = by_name(found["grants"])[f"dashscope-singapore/{MODEL}"]
        assert (grant["left"], grant["counts_as_free"]) == (1_000_000, trusted)
        assert found["free"]["tokens"] == tokens


def test_a_grant_that_is_not_claimed_is_told_with_the_way_to_claim_it(run: Run) -> None:
    run.settings({"deepinfra": {}}, 'model = "qwen3-embedding-8b"')
    shown = run("usage", "--json", DEEPINFRA_TOKEN="k").json
    [unclaimed] = shown["unclaimed"]
    assert (unclaimed["provider"], unclaimed["grant"]["usd"]) == ("deepinfra", "1.80")
    assert shown["grants"] == []
    run.settings({"deepinfra": {"free": True}}, f'model = "qwen3-embedding-8b"\nstate = "{STATE}"')
    assert run("usage", "--json", DEEPINFRA_TOKEN="k").json["unclaimed"] == []
    run.settings({"deepinfra": {}}, f'model = "qwen3-embedding-8b"\nstate = "{STATE}"')
    book(TODAY, "deepinfra/qwen3-embedding-8b", Amount(1, 1))
    said = " ".join(run("usage", DEEPINFRA_TOKEN="k").out.split())
    assert "Not claimed: deepinfra (1.80 USD, all models together)." in said
    assert "free = true in [providers.NAME]" in said


def test_a_limit_is_told_once_it_is_used_up(run: Run, servers: Any) -> None:
    book(TODAY, f"paid/{MODEL}", Amount(1, 1))
    assert "requests_per_day" not in run("usage").out
    assert "5,000 of 5,000 left" in run("usage", "--verbose").out
    books = SQLiteBooks(STATE.absolute(), time.time)
    settings = Settings.load("qwen-embed.toml")
    [paid] = [o for o in build_catalogue(settings, load_plugins()).offers if o.account == "paid"]
    [day] = [meter for meter in paid.limits if meter.kind == "day"]
    with books.page() as page:
        page.book(day.used_key(page.now, day.held_key(page.now)), Amount(5000, 1))
    books.close()
    assert "Limit requests_per_day of paid" in run("usage").out
    [limit] = [e for e in run("usage", "--json").json["limits"] if e["account"] == "paid"]
    assert (limit["left"], limit["setting"]) == (0, "requests_per_day")
    assert limit["renews_at"] > time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


# Correcting


def test_a_grant_is_corrected_by_hand(run: Run, servers: dict[str, SimulatedServer]) -> None:
    wait_for(embed(run, "given"))
    used = servers["given"].tokens_served
    done = run("usage", "--set", "given=250_000", "--set", "credit=1.20usd")
    assert done.code == 0
    assert done.out.splitlines() == [
        f"given: left {1_000_000 - used:,} → 250,000 of 1,000,000 tokens",
        "team: left 1.50 → 1.20 of 1.50 USD",
    ]
    found = run("usage", "--json").json
    assert by_name(found["grants"])["given"]["left"] == 250_000
    assert tokens(found["offers"]) == served(servers)  # the record of use is the record of use
    wait_for(embed(run, "given"))
    again = by_name(run("usage", "--json").json["grants"])["given"]
    assert again["left"] == 250_000 - (servers["given"].tokens_served - used)
    told = run("usage", "--json", "--set", "given=300000").json["grants"]
    assert told == [
        {
            "name": "given",
            "unit": "tokens",
            "limit": 1_000_000,
            "left_before": again["left"],
            "left_after": 300_000,
            "held": 0,
        }
    ]


def test_a_grant_is_corrected_under_a_ledger_that_lives(run: Run, servers: Any) -> None:
    settings = Settings.load("qwen-embed.toml")
    offers = build_catalogue(settings, load_plugins()).offers
    [given] = [offer for offer in offers if offer.account == "given"]
    use = Use("given", given.key, 700, Decimal(0), meters=(given.grants[0].meter,))
    ledger = SQLiteLedger(str(STATE.absolute()), Budget(), time.time, tend_seconds=None)
    assert ledger.top_up(use) is None
    under_way = ledger.reserve(use)
    assert under_way is not None
    done = run("usage", "--set", "given=5000")
    assert done.out == (
        "given: left 1,000,000 → 5,000 of 1,000,000 tokens; 700 tokens of it are held\n"
    )
    assert by_name(run("usage", "--json").json["grants"])["given"]["left"] == 4300
    ledger.settle(under_way, 650, Decimal(0))
    ledger.close()
    assert by_name(run("usage", "--json").json["grants"])["given"]["left"] == 4350


def test_an_exhausted_grant_serves_again_after_a_correction(
    run: Run, servers: dict[str, SimulatedServer]
) -> None:
    assert run("usage", "--set", "given=0").code == 0
    wait_for(embed(run, "given", 5))
    found = run("usage", "--json").json
    assert Decimal(found["usd"]["total"]) > 0  # paid: nothing was left
    assert run("usage", "--set", "given=900000").code == 0
    wait_for(embed(run, "given", 5))
    assert run("usage", "--json").json["usd"]["total"] == found["usd"]["total"]


# What goes wrong


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--set", "given"), "'given': expected NAME=AMOUNT"),
        (("--set", "given=1.5"), "for dollars write given=1.5usd"),
        (("--since", "2999-01-01"), "'2999-01-01': expected a day that is not ahead"),
        (("--set", "given=1", "--since", "7d"), "--since tells, --set corrects"),
    ],
)
def test_wrong_arguments_are_told_before_anything_is_read(
    run: Run, arguments: tuple[str, ...], said: str
) -> None:
    Path("qwen-embed.toml").write_text("this is no TOML", "utf-8")
    done = run("usage", *arguments)
    assert done.code == 2
    assert said in done.complaint


def test_a_correction_that_cannot_be_meant_writes_nothing(run: Run, servers: Any) -> None:
    for wrong, said in {
        "givne=5": "did you mean 'given'?",
        "near=5": "no grant of it is claimed",
        "given=1000001": "more than the whole grant of 1,000,000 tokens",
        "given=1usd": "counted in tokens",
    }.items():
        done = run("usage", "--set", "given=5", "--set", wrong)
        assert (done.code, done.out) == (2, "")
        assert said in done.complaint
    assert not STATE.exists()


def _folder() -> None:
    STATE.mkdir()


def _damaged() -> None:
    STATE.write_bytes(b"this is no database" * 100)


def _newer() -> None:
    with closing(sqlite3.connect(STATE)) as database:
        database.execute("pragma user_version = 99")


@pytest.mark.parametrize("spoil", [_folder, _damaged, _newer])
def test_a_state_that_cannot_be_read_is_one_line(
    run: Run, servers: Any, spoil: Callable[[], None]
) -> None:
    spoil()
    for arguments in ((), ("--json",), ("--set", "given=5")):
        done = run("usage", *arguments)
        assert done.code == 2
        assert done.complaint.startswith(f"state file {STATE.absolute()}: ")


def test_a_reader_that_goes_away(run: Run, servers: Any) -> None:
    for arguments in ((), ("--json",)):
        usage = run.start("usage", *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert usage.stdout is not None
        usage.stdout.close()
        assert usage.stderr is not None
        assert usage.stderr.read() == b""
        usage.stderr.close()
        assert usage.wait(timeout=60) == 141


# What a person sees


def test_nothing_yet_is_one_line_and_makes_no_file(run: Run, ollama: SimulatedServer) -> None:
    done = run("usage", QWEN_EMBED_STATE=str(STATE))
    assert (done.code, done.err) == (0, "")
    [line] = done.out.splitlines()
    assert "Nothing was used yet" in line
    assert not STATE.exists()
    assert run("usage", "--json").json["offers"] == []
    assert not ollama.requests


def test_a_claimed_grant_is_shown_before_anything_was_used(run: Run, servers: Any) -> None:
    shown = run("usage").out
    assert shown.startswith("Nothing was used yet")
    assert "1,000,000 of 1,000,000 tokens left; lapses 2999-12-31" in shown
    assert "1.50 of 1.50 USD left" in shown
    line = " ".join(shown.split()).partition(f"Free for {MODEL}/1024 now: ")[2]
    assert line.startswith("16,000,000 tokens (1,000,000 given once, 15,000,000 for 1.50 USD of")
    assert line.endswith(f"and whatever near/{MODEL} can take.")


def test_bars_show_what_is_left(run: Run, servers: Any) -> None:
    assert run("usage", "--set", "given=500000").code == 0
    assert f"Grant given\n  {'█' * 10}{'░' * 10}  500,000 of" in run("usage").out
    ascii_only = run("usage", PYTHONIOENCODING="ascii").out
    assert f"{'#' * 10}{'-' * 10}" in ascii_only
    assert "?" not in ascii_only


def test_long_names_and_large_numbers_fit(run: Run, servers: Any) -> None:
    name = "a-provider-with-a-rather-long-name/dashscope-text-embedding-v4"
    book(TODAY, name, Amount(123_456_789, 12_345_678_901_234, 4 * 10**18), "x" * 60)
    shown = run("usage", "--verbose").out
    assert run.fits(shown)
    assert [line for line in shown.splitlines() if line.endswith(" ")] == []
    assert "12,345,678,901,234" in shown
    assert "4,000,000.00" in shown
