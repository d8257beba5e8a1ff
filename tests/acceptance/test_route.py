"""`route` as people type it: what it prints and refuses; it reaches nobody and writes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from qwen_embed_plugins.testing import SimulatedServer

if TYPE_CHECKING:
    from tests.acceptance.conftest import Run

EIGHT: dict[str, Any] = dict.fromkeys(
    (
        *("DASHSCOPE_API_KEY", "DASHSCOPE_CN_API_KEY", "SCW_SECRET_KEY", "DEEPINFRA_TOKEN"),
        *("SILICONFLOW_API_KEY", "SILICONFLOW_COM_API_KEY", "FIREWORKS_API_KEY"),
        "OPENROUTER_API_KEY",
    ),
    "a-made-up-key",
)


def flat(output: str) -> str:
    return " ".join(output.split())


def used(plan: Any) -> list[str]:
    return [entry["offer"].partition("/")[0] for entry in plan["offers"] if entry.get("requests")]


@pytest.fixture
def two(run: Run, server: SimulatedServer) -> SimulatedServer:
    here = {"kind": "openai-compatible", "base_url": f"{server.url}/v1"}
    run.settings(
        {
            "given": {
                **here,
                "price_per_million": "0.50",
                "free_tokens": 20_000,
                "free_until": "2099-01-31",
            },
            "paid": {**here, "base_url": f"{server.url}/other/v1", "price_per_million": "0.05"},
        }
    )
    return server


def test_a_job_is_told_by_offer_with_its_terms(run: Run, two: SimulatedServer) -> None:
    done = run("route", "--tokens", 100_000, "--texts", 1000)
    assert done.code == 0
    assert run.fits(done.out)
    said = flat(done.out)
    assert "1 given" in said
    assert "2 paid" in said
    assert "free until 2099-01-31" in said
    assert "0.05 USD a million" in said
    assert "(assumed)" in said
    plan = run("route", "--tokens", 100_000, "--texts", 1000, "--json").json
    assert used(plan) == ["given", "paid"]
    job = plan["job"]
    assert (job["texts"], job["served"], job["left"], job["is_estimate"]) == (1000, 1000, 0, False)
    own = sum(entry["introduction_tokens"] for entry in plan["offers"] if "tokens" in entry)
    assert job["tokens"] == 100_000 + own
    assert two.request_count == 0


def test_texts_are_estimated_between_bounds(run: Run, two: SimulatedServer) -> None:
    lines = [f"line {number} of a file" for number in range(300)]
    Path("texts.txt").write_text("\n".join([*lines, "", *lines[:5]]) + "\n", "utf-8")
    plan = run("route", "--file", "texts.txt", "--use", "paid", "--json").json
    job = plan["job"]
    assert job["texts"] == 300  # an empty line is not sent, and equal ones once
    assert job["is_estimate"]
    assert job["tokens_low"] < job["tokens"] < job["tokens_high"]
    low, cost, high = (float(job[f"cost_{part}usd"]) for part in ("low_", "", "high_"))
    assert 0 < low < cost < high
    assert "by estimate:" in flat(run("route", "--file", "texts.txt", "--use", "paid").out)
    counted = run("route", "--file", "texts.txt", "--tokens", 3000, "--use", "paid", "--json").json
    assert counted["job"]["tokens"] == 3000
    assert not counted["job"]["is_estimate"]
    stdin = run("route", "--file", "-", "--use", "paid", "--json", stdin=b"one\ntwo\n").json
    assert stdin["job"]["texts"] == 2
    assert run("route", "one", "two", "two", "--use", "paid", "--json").json["job"]["texts"] == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--texts", 5), "the length of 5 texts is not known: give --tokens N"),
        (("--texts", 5, "one"), "--texts counts texts that are not given"),
        (("--texts", 5, "--tokens", 4), "at least one a text"),
        (("--file", "-", "one"), "give texts or --file, not both"),
        (("",), "there is no text in it"),
        (("--tokens", 0), "0 is not in the range"),
        (("--tokens", 10**23), "is not in the range 1<=x<=1000000000000"),
        (("--tokens", 10**8, "--texts", 1), "at most 32,768 tokens a text"),
    ],
)
def test_what_cannot_be_rehearsed_is_one_line(
    run: Run, two: SimulatedServer, arguments: tuple[object, ...], said: str
) -> None:
    done = run("route", *arguments)
    assert done.code == 2
    assert said in done.complaint


def test_what_is_left_says_when(run: Run, server: SimulatedServer) -> None:
    table = {"kind": "openai-compatible", "base_url": f"{server.url}/v1", "requests_per_day": 50}
    run.settings({"few": table})
    done = run("route", "--tokens", 2_000_000, "--texts", 10_000)
    said = flat(done.out)
    assert "now 1,600 of 10,000 texts; 8,400 are left: from" in said
    assert "about 5 days" in said
    assert "requests_per_day = 50 is used up" in said
    assert done.code == 0


def test_one_query_is_told_in_words_that_fit(run: Run, server: SimulatedServer) -> None:
    run.settings({"near": {"kind": "openai-compatible", "base_url": f"{server.url}/v1"}})
    said = flat(run("route", "--query", "--tokens", 20, "--texts", 1).out)
    assert ", queries: " in said
    assert "20 tokens, 1 request, " in said


def test_without_a_job_only_the_order_is_told(run: Run, two: SimulatedServer) -> None:
    plan = run("route", "--json").json
    assert "job" not in plan
    assert [entry["offer"].partition("/")[0] for entry in plan["offers"][:2]] == ["given", "paid"]
    assert "requests" not in plan["offers"][0]
    assert not list(Path.home().rglob("state.db"))


def test_only_tokens_are_enough_and_what_is_assumed_is_said(run: Run, two: SimulatedServer) -> None:
    said = flat(run("route", "--tokens", 25_600).out)
    assert "Texts of about 256 tokens are assumed" in said
    assert run("route", "--tokens", 25_600, "--json").json["job"]["texts"] == 100


def test_eight_keys_and_nothing_claimed(run: Run) -> None:
    """The cheapest first, and one line for all that could be claimed."""
    arguments = ("route", "--tokens", 1_000_000, "--texts", 1000, "--dimensions", 1024)
    done = run(*arguments, **EIGHT)
    assert run.fits(done.out)
    said = flat(done.out)
    assert said.count("free tiers not claimed:") == 1
    assert "deepinfra (1.80 USD)" in said
    assert "add free = true under [providers.NAME]" in said
    plan = run(*arguments, "--json", **EIGHT).json
    assert plan["unclaimed"]["deepinfra"] == "1.80 USD"
    # Ollama on this machine costs nothing, if it is there.
    prices = [float(entry["price_per_million"]) for entry in plan["offers"] if entry["serves"]]
    assert prices == sorted(prices)
    assert used(plan) == ["ollama"]
    names = [entry["offer"].partition("/")[0] for entry in plan["offers"] if entry["serves"]]
    without = ",".join(name for name in names if name != "ollama")
    cloud = run(*arguments, "--use", without, "--json", **EIGHT).json
    assert used(cloud)[0] == names[1]


def test_one_reason_for_each_offer_left_out(run: Run, server: SimulatedServer) -> None:
    here = {"kind": "openai-compatible"}
    run.settings(
        {
            "near": {**here, "base_url": f"{server.url}/v1"},
            "queries": {**here, "base_url": f"{server.url}/2/v1", "serve": ["query"]},
            "dear": {**here, "base_url": f"{server.url}/3/v1", "price_per_million": "1"},
            "unpriced": {**here, "base_url": "https://embeddings.example/v1"},
            "fireworks": {},
        }
    )
    done = run("route", "--tokens", 1000, "--texts", 10)
    said = flat(done.out)
    assert "left out: queries: serves no document: serve = query" in said
    assert "left out: dear: not needed" in said
    assert "left out: unpriced: no price is known and a budget is set" in said
    assert "left out: fireworks: no key" in said
    assert run.fits(done.out)
