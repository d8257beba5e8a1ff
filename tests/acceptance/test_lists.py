"""`providers`, `models`, `plugins`, `settings`, and the commands that plugins add."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from qwen_embed_plugins.testing import Reply, SimulatedServer

if TYPE_CHECKING:
    from tests.acceptance.conftest import Run


def test_settings_list_shows_everything_but_keys(run: Run) -> None:
    Path("qwen-embed.toml").write_text(
        'dimensions = 512\n[providers.mine]\nkind = "openai-compatible"\n'
        'base_url = "http://127.0.0.1:1/v1"\napi_key_env = "PLANTED_KEY"\n'
        f'proxy = "socks5://me:{run.planted}@127.0.0.1:1"\n',
        "utf-8",
    )
    state = f"postgresql://me:{run.planted}@db/x"
    done = run("settings", "--json", QWEN_EMBED_CONCURRENCY="3", QWEN_EMBED_STATE=state)
    found = {item["name"]: (item["value"], item["origin"]) for item in done.json["settings"]}
    assert done.json["file"] == "qwen-embed.toml"
    assert found["dimensions"] == ("512", "file qwen-embed.toml")
    assert found["concurrency"] == ("3", "environment")
    assert found["policy"] == ("free-first", "default")
    assert found["providers.mine.api_key_env"][0] == "PLANTED_KEY"
    table = run("settings", QWEN_EMBED_STATE=state).out
    assert "PLANTED_KEY" in table
    assert run.fits(table)


def test_one_setting_is_told_in_full(run: Run) -> None:
    Path("qwen-embed.toml").write_text("[providers.deepinfra]\nfree = true\n", "utf-8")
    told = run("settings", "spill_to_paid", QWEN_EMBED_SPILL_TO_PAID="true").out
    assert "Variable  QWEN_EMBED_SPILL_TO_PAID\n" in told
    assert "Now       true (from environment)\n" in told
    [free] = run("settings", "free", "--json").json["settings"]
    assert (free["name"], free["expected"]) == ("providers.NAME.free", "true or false")
    origin = "file qwen-embed.toml"
    assert free["in_force"] == [
        {"name": "providers.deepinfra.free", "value": "true", "origin": origin}
    ]
    both = run("settings", "usd_per_day").out
    assert both.count("Setting") == 2
    assert run.fits(both)
    option = run("settings", "num_ctx").out
    assert option.startswith("Setting  providers.ollama.num_ctx")
    Path("qwen-embed.toml").write_text('spill_to_paid = "maybe"', "utf-8")
    spoilt = run("settings", "spill_to_paid")
    assert (spoilt.code, spoilt.complaint) == (
        2,
        "file qwen-embed.toml: spill_to_paid = 'maybe': expected true or false",
    )
    assert "Whether documents go on to a dearer offer" in spoilt.out
    Path("qwen-embed.toml").unlink()
    wrong = run("settings", "polcy")
    assert wrong.code == 2
    assert "did you mean 'policy'?" in wrong.complaint


def offers(listed: Any) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (provider["provider"], offer["model"]): offer
        for provider in listed
        for offer in provider["offers"]
    }


def test_providers_say_what_they_offer_and_whether_they_are_set_up(run: Run) -> None:
    found = offers(run("providers", "--json").json)
    ollama = found["ollama", "qwen3-embedding-8b"]
    assert (ollama["wire_name"], ollama["price_per_million"]) == ("qwen3-embedding:8b", "0")
    assert (ollama["configured"], ollama["serves"], ollama["reason"]) == (True, True, None)
    assert ollama["source"].startswith("https://")
    assert ollama["checked"]
    other = found["openai-compatible", "qwen3-embedding-8b"]
    assert (other["configured"], other["reason"]) == (False, "no base_url set")
    assert found["lexical", "lexical"]["serves"] is False


def test_providers_of_the_settings_are_listed_even_if_they_are_wrong(run: Run) -> None:
    run.settings(
        {
            "gpu": {"kind": "openai-compatible", "base_url": "http://127.0.0.1:1/v1"},
            "half": {"kind": "openai-compatible"},
        }
    )
    found = offers(run("providers", "--json").json)
    assert found["gpu", "qwen3-embedding-8b"]["serves"] is True
    assert "base_url is missing" in found["half", "qwen3-embedding-8b"]["reason"]
    assert found["ollama", "qwen3-embedding-8b"]["reason"] == "not in `use`"
    table = run("providers").out
    assert run.fits(table)
    assert "base_url is missing" in " ".join(table.split())


def install(folder: Path, sources: dict[str, str]) -> str:
    """A folder in which these plugins, by name, are installed."""
    for name, source in sources.items():
        info = folder / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (folder / f"{name}_module.py").write_text(source, "utf-8")
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(
            f"[qwen_embed_plugins]\n{name} = {name}_module\n", "utf-8"
        )
    return str(folder)


@pytest.fixture
def plugins(tmp_path: Path) -> str:
    """A folder with three installed plugins: one works, one adds a command, one is broken."""
    sources = {
        "working": (
            "from qwen_embed_plugins import Offer, Provider, hookimpl\n"
            "class Working(Provider):\n"
            "    name = 'working'\n"
            "    base_url = 'http://127.0.0.1:1'\n"
            "@hookimpl\n"
            "def register_providers(register):\n"
            "    register(Working, offers=[Offer('qwen3-embedding-8b', 'its-8b')])\n"
        ),
        "speaking": (
            "import click\n"
            "from qwen_embed_plugins import hookimpl\n"
            "@click.command()\n"
            "def greet():\n"
            "    'Say hello.'\n"
            "    click.echo('hello')\n"
            "@hookimpl\n"
            "def register_commands(register):\n"
            "    register(greet)\n"
        ),
        "broken": "raise RuntimeError('no such luck')\n",
    }
    return install(tmp_path / "site", sources)


def test_a_broken_plugin_is_named_and_harms_nothing(run: Run, plugins: str) -> None:
    found = {item["name"]: item for item in run("plugins", "--json", PYTHONPATH=plugins).json}
    assert found["broken"]["error"] == "RuntimeError: no such luck"
    assert found["working"]["provides"] == ["provider working"]
    assert (found["working"]["source"], found["working"]["version"]) == ("working", "1.0")
    assert found["qwen_embed_plugins.providers.ollama"]["source"] == "built-in"
    table = run("plugins", PYTHONPATH=plugins).out
    assert run.fits(table)
    lines = lines_of(table)
    assert "broken broken 1.0: left out: RuntimeError: no such luck" in lines
    assert "providers.ollama provider ollama" in lines
    listed = offers(run("providers", "--json", PYTHONPATH=plugins).json)
    assert listed["working", "qwen3-embedding-8b"]["configured"] is True
    done = run("embed", "text", "--model", "lexical", PYTHONPATH=plugins)
    assert len(done.json[0]) == 1024


def test_a_broken_plugin_is_named_to_who_asks_for_it(run: Run, plugins: str) -> None:
    done = run("embed", "text", "--use", "brokn", PYTHONPATH=plugins)
    assert done.code == 2
    assert "plugin 'broken' failed to load: RuntimeError: no such luck" in done.complaint


def test_commands_of_plugins_are_added(run: Run, plugins: str) -> None:
    assert run("greet", PYTHONPATH=plugins).out == "hello\n"
    assert re.search(r"greet +Say hello\.", run("--help", PYTHONPATH=plugins).out)


SELLERS = """
from qwen_embed_plugins import Provider, hookimpl
from qwen_embed_plugins.providers import _catalogue

class Cloud(Provider):
    name = "cloud-one"
    base_url = "https://cloud.example/v1"
    api_key_env = "CLOUD_KEY"

class Doubtful(Cloud):
    name = "cloud-doubtful"

@hookimpl
def register_providers(register):
    register(Cloud, offers=_catalogue.offers_of("siliconflow"))
    register(Doubtful, offers=_catalogue.offers_of("dashscope-beijing"))
"""


@pytest.fixture
def sellers(tmp_path: Path) -> str:
    """A plugin whose providers have the terms of two real services."""
    return install(tmp_path / "site", {"sellers": SELLERS})


def test_the_list_of_providers_says_the_terms(run: Run, sellers: str) -> None:
    table = run("providers", PYTHONPATH=sellers).out
    assert run.fits(table)
    for name in ("dashscope-text-embedding-v4", "nomic-embed-text-v1.5", "qwen3-embedding-0.6b"):
        assert name in table.split()
    one = table.split("cloud-one")[1].split("cloud-doubtful")[0]
    assert one.startswith(", CN: no key: set CLOUD_KEY\n")
    # What holds for all four offers is said once, and what nobody verified has a star.
    assert one.count("32 texts a request") == 1
    assert one.count("grant: 1.00 USD, all models together*") == 1
    assert "qwen3-embedding-8b           0.05 USD*" in one
    assert "free*" in one
    two = table.split("cloud-doubtful")[1].split("\n\n")[0]
    assert two.count("unproven") == 3
    assert "0.5 CNY " in two
    assert "gives at most 2048 numbers" in " ".join(two.split())


def test_one_provider_is_shown_with_all_its_facts(run: Run, sellers: str) -> None:
    page = run("providers", "cloud-one", PYTHONPATH=sellers).out
    assert run.fits(page)
    assert "cloud-doubtful" not in page
    assert "CLOUD_KEY" in page
    facts = [" ".join(line.split()) for line in page.splitlines()]
    assert "texts a request 32 2026-11 [1]" in facts
    assert "route from Russia direct 2026-11 [3] unverified" in facts
    assert "name there BAAI/bge-m3 2026-11 [1]" in facts
    assert "price 0.05 USD for a million tokens 2026-11 [3] unverified" in facts
    assert any(fact.startswith("[1] https://api-docs.siliconflow.cn/") for fact in facts)
    assert "[3] no page (hearsay, read 2026-11)" in facts
    entry = run("providers", "cloud-one", "--json", PYTHONPATH=sellers).json
    assert (entry["provider"], len(entry["offers"])) == ("cloud-one", 4)
    done = run("providers", "cloud-on", PYTHONPATH=sellers)
    assert (done.code, "did you mean 'cloud-one'" in done.complaint) == (2, True)


def test_the_json_of_providers_holds_every_fact_with_its_source(run: Run, sellers: str) -> None:
    found = offers(run("providers", "--json", PYTHONPATH=sellers).json)
    offer = found["cloud-one", "bge-m3"]
    assert (offer["wire_name"], offer["price_per_million"]) == ("BAAI/bge-m3", "0")
    assert (offer["licence"], offer["membership"]) == ("MIT", "declared")
    assert offer["grant"]["usd"] == "1.00"
    assert offer["sources"]["max_inputs"] == {
        "url": "https://api-docs.siliconflow.cn/docs/api/embeddings-post",
        "read": "2026-11",
        "evidence": "documentation",
        "verified": True,
    }
    assert offer["sources"]["price_per_million"]["evidence"] == "hearsay"
    assert offer["sources"]["grant"]["verified"] is False
    doubtful = found["cloud-doubtful", "qwen3-embedding-8b"]
    assert (doubtful["membership"], doubtful["dimensions"]) == ("unproven", 2048)
    assert (doubtful["price_per_million"], doubtful["currency"]) == ("0.5", "CNY")
    assert doubtful["usd_per_million"] == "0.075"


def test_what_settings_state_has_no_source_and_is_in_dollars(run: Run, sellers: str) -> None:
    run.settings({"cloud-doubtful": {"price_per_million": "0.1", "max_inputs": 5}})
    offer = run("providers", "cloud-doubtful", "--json", PYTHONPATH=sellers).json["offers"][0]
    assert (offer["price_per_million"], offer["currency"], offer["max_inputs"]) == ("0.1", "USD", 5)
    assert offer["sources"].keys().isdisjoint({"price_per_million", "currency", "max_inputs"})
    assert offer["batch_price_per_million"] is None  # it was in yuan
    page = run("providers", "cloud-doubtful", PYTHONPATH=sellers).out
    facts = [" ".join(line.split()) for line in page.splitlines()]
    assert "price 0.1 USD for a million tokens as set here" in facts
    assert "texts a request 5 as set here" in facts
    assert "tokens a text 8,192 2026-11 [1]" in facts


def lines_of(page: str) -> list[str]:
    return [" ".join(line.split()) for line in page.splitlines()]


def test_one_provider_is_shown_where_the_settings_put_it(run: Run, sellers: str) -> None:
    address = f"http://me:{run.planted}@127.0.0.1:1/v1"
    run.settings({"cloud-one": {"base_url": address, "api_key_env": "MY_OWN_KEY"}})
    facts = lines_of(run("providers", "cloud-one", PYTHONPATH=sellers).out)
    assert "Address http://me:***@127.0.0.1:1/v1" in facts
    assert "Key in MY_OWN_KEY" in facts
    assert "Address http://127.0.0.1:5" in lines_of(
        run("providers", "ollama", OLLAMA_HOST="127.0.0.1:5").out
    )


def test_one_provider_says_how_its_grant_is_claimed_and_who_did(run: Run, sellers: str) -> None:
    def facts(name: str, **table: object) -> str:
        run.settings({name: table})
        page = run("providers", name, PYTHONPATH=sellers, CLOUD_KEY="k").out
        return " ".join(page.split())

    assert "to claim the grant free = true in [providers.cloud-one] " in facts("cloud-one")
    claimed = facts("cloud-one", free=True)
    assert "grant claimed by free in " in claimed
    assert "to claim the grant" not in claimed
    stated = facts("cloud-one", free_tokens=5, free_usd="1", base_url="http://127.0.0.1:1")
    assert "grant claimed by free_tokens in" in stated
    assert "[providers.cloud-one], free_usd in [providers.cloud-one]" in stated
    assert "claim" not in facts("cloud-one", free=False), "declined"
    doubtful = facts("cloud-doubtful")
    assert "free = true and free_until = the first day after it, in" in doubtful
    tier = " ".join(run("providers", "gemini").out.split())
    assert "to claim the grant state free_tokens, free_usd or free_tokens_per_day in" in tier


def test_a_rumoured_limit_is_said_not_to_be_enforced(run: Run) -> None:
    facts = lines_of(run("providers", "gemini").out)
    assert any(fact.startswith("requests a minute 100, not enforced ") for fact in facts)
    run.settings({"gemini": {"requests_per_minute": 7}})
    assert "requests a minute 7 as set here" in lines_of(run("providers", "gemini").out)
    assert "20 requests a minute*, not enforced" in " ".join(run("providers").out.split())
    verified = lines_of(run("providers", "cloudflare").out)
    assert any(fact.startswith("requests a minute 3,000 2026") for fact in verified)


def test_what_nobody_but_the_plugin_states_is_not_said_to_be_set_here(
    run: Run, plugins: str
) -> None:
    run.settings({"working": {"max_inputs": 5}})
    facts = lines_of(run("providers", "working", PYTHONPATH=plugins).out)
    assert "name there its-8b as its plugin says" in facts
    assert "texts a request 5 as set here" in facts


def test_the_source_of_a_whole_offer_is_that_of_each_fact(run: Run, tmp_path: Path) -> None:
    source = (
        "from qwen_embed_plugins import Offer, Provider, hookimpl\n"
        "class Open(Provider):\n"
        "    name = 'open'\n"
        "@hookimpl\n"
        "def register_providers(register):\n"
        "    register(Open, offers=[Offer('qwen3-embedding-8b', 'its-8b',\n"
        "        source='https://open.example/terms', checked='2026-10')])\n"
    )
    site = install(tmp_path / "site", {"open": source})
    facts = lines_of(run("providers", "open", PYTHONPATH=site).out)
    assert "name there its-8b 2026-10 [1]" in facts
    assert "[1] https://open.example/terms (documentation, read 2026-10)" in facts


def test_what_is_near_is_free_whether_it_is_used_or_not(run: Run) -> None:
    run.settings({"gpu": {"kind": "openai-compatible", "base_url": "http://127.0.0.1:1/v1"}})
    unused = offers(run("providers", "--json", QWEN_EMBED_DIMENSIONS="1024").json)
    assert unused["ollama", "qwen3-embedding-8b"]["price_per_million"] == "0"
    too_short = unused["ollama", "nomic-embed-text-v1.5"]
    assert (too_short["configured"], too_short["price_per_million"]) == (False, "0")
    assert unused["deepinfra", "qwen3-embedding-4b"]["price_per_million"] is None


@pytest.mark.parametrize(
    "command", ["plugins", "providers", "models", "route", "settings", "usage"]
)
def test_lines_in_a_pipe_are_short_and_end_in_no_blanks(run: Run, command: str) -> None:
    shown = run(command).out
    assert run.fits(shown)
    assert [line for line in shown.splitlines() if line.endswith(" ")] == []


def test_lists_reach_no_network(run: Run, mine: SimulatedServer) -> None:
    for command in ("providers", "models"):
        assert run(command).code == 0
    assert run("providers", "mine", "--json").json["offers"][0]["serves"] is True
    assert not mine.requests


def test_check_embeds_one_text_at_each_offer_that_serves(run: Run, mine: SimulatedServer) -> None:
    done = run("providers", "--check")
    assert done.code == 0
    assert done.out.startswith("mine/qwen3-embedding-8b: ok, ")
    assert " ms, " in done.out
    [request] = mine.requests
    assert request.texts == ("The capital of China is Beijing.",)
    [check] = [
        offer["check"]
        for offer in offers(run("providers", "--check", "--json").json).values()
        if "check" in offer
    ]
    assert (check["ok"], check["problem"]) == (True, None)
    assert check["milliseconds"] > 0
    assert check["tokens"] > 0


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply(401, "no such key"), "put a valid key into PLANTED_KEY"),
        (Reply(402, "balance is 0"), "top the account up"),
    ],
)
def test_a_failed_check_says_what_to_do(
    run: Run, mine: SimulatedServer, reply: Reply, said: str
) -> None:
    mine.respond = lambda _: reply
    done = run("providers", "--check")
    assert done.code == 1
    shown = " ".join(done.out.split())
    assert f"mine/qwen3-embedding-8b: failed: HTTP {reply.status}: {reply.message}" in shown
    assert said in shown
    assert done.complaint == "1 of 1 offers failed: mine/qwen3-embedding-8b"
    failed = run("providers", "mine", "--check", "--json")
    assert failed.code == 1
    assert failed.json["offers"][0]["check"]["ok"] is False


def test_a_check_puts_a_wrong_length_down_to_a_wrong_model_first(run: Run) -> None:
    with SimulatedServer(native=1024) as small:
        run.settings({"mine": {"kind": "openai-compatible", "base_url": small.url + "/v1"}})
        done = run("providers", "--check")
    shown = " ".join(done.out.split())
    assert "1024 numbers where qwen3-embedding-8b gives 4096; see that the right model" in shown


def test_one_failed_offer_does_not_stop_the_check_of_another(
    run: Run, server: SimulatedServer
) -> None:
    run.settings(
        {
            "down": {"kind": "openai-compatible", "base_url": "http://127.0.0.1:1/v1"},
            "up": {"kind": "openai-compatible", "base_url": f"{server.url}/v1"},
        }
    )
    done = run("providers", "--check")
    assert (done.code, done.complaint) == (1, "1 of 2 offers failed: down/qwen3-embedding-8b")
    assert "up/qwen3-embedding-8b: ok" in done.out
    assert run("providers", "up", "--check").code == 0


def test_a_check_names_what_it_passes_over(run: Run, server: SimulatedServer) -> None:
    table = {"kind": "openai-compatible", "base_url": f"{server.url}/v1"}
    run.settings({"up": table, "keyless": {**table, "api_key_env": "NOT_SET"}})
    done = run("providers", "--check")
    shown = " ".join(done.out.split())
    assert "keyless/qwen3-embedding-8b: not checked: providers.keyless: the variable" in shown
    assert "up/qwen3-embedding-8b: ok" in shown
    assert shown.count("not checked") == 1


def test_a_check_without_any_offer_is_no_success(run: Run) -> None:
    done = run("providers", "openai-compatible", "--check")
    assert done.code == 1
    assert "no offer for qwen3-embedding-8b is set up here" in done.complaint


TALKATIVE = """
from qwen_embed_plugins import Offer, hookimpl
from qwen_embed_plugins.providers.openai_compatible import OpenAICompatible
from qwen_embed_plugins.types import Call, WireRequest

class Talkative(OpenAICompatible):
    name = "talkative"
    options = {"refuses": bool}
    def inspect(self, wire_name, model):
        answer = yield WireRequest(self.url + "/nowhere", method="GET")
        counted = yield Call(lambda: len(wire_name))
        if self.config.options.get("refuses"):
            raise RuntimeError("asked too much")
        return (f"{wire_name} has {counted} letters", f"status {answer.status}")

@hookimpl
def register_providers(register):
    register(Talkative, offers=[Offer("qwen3-embedding-8b", "Qwen/8B")])
"""


@pytest.mark.parametrize(
    ("refuses", "said"),
    [
        (False, ["Qwen/8B has 7 letters", "status 404"]),
        # That it cannot be asked is no fault of an offer which has just served.
        (True, ["could not be inspected: RuntimeError: asked too much"]),
    ],
)
def test_check_says_what_a_server_says_of_itself(
    run: Run, server: SimulatedServer, tmp_path: Path, refuses: bool, said: list[str]
) -> None:
    site = install(tmp_path / "site", {"talkative": TALKATIVE})
    run.settings({"talkative": {"base_url": f"{server.url}/v1", "refuses": refuses}})
    done = run("providers", "--check", PYTHONPATH=site)
    assert done.code == 0
    first, *notes = [line.strip() for line in done.out.splitlines()]
    assert first.startswith("talkative/qwen3-embedding-8b: ok")
    assert notes == said


def test_the_list_of_models(run: Run) -> None:
    table = run("models").out
    assert run.fits(table)
    rows = {line.split()[0]: line for line in table.splitlines() if line.strip()}
    assert "4096" in rows["qwen3-embedding-8b"]
    assert "4.7/15" in rows["qwen3-embedding-8b"]
    assert "dashscope-text-embedding-v4" in rows
    assert "CC BY-NC 4.0!" in rows["jina-embeddings-v3"]
    assert "! for non-commercial use only" in table
    listed = {model["model"]: model for model in run("models", "--json").json}
    assert listed["voyage-3.5"]["closed"] is True
    assert listed["bge-m3"]["licence"] == "MIT"


def test_the_card_of_a_model(run: Run) -> None:
    page = run("models", "qwen3-embedding-8b").out
    assert run.fits(page)
    words = " ".join(page.split())
    for said in (
        "4,096 a vector; possible: 32 to 4096",
        "32,768 tokens",
        "Apache-2.0 [1]",
        "4.7 GB at Q4 ([2] unverified)",
        "75.22 MTEB English v2",
        "Instead qwen3-embedding-4b, qwen3-embedding-0.6b",
        "ollama (price: free; set up here)",
        "[1] https://github.com/QwenLM/Qwen3-Embedding",
    ):
        assert said in words
    assert "computed" in run("models", "qwen3-embedding-4b").out
    card = run("models", "qwen3-embedding-8b", "--json").json
    assert card["disk"]["q4"]["gigabytes"] == 4.7
    assert card["quality"][0]["source"]["verified"] is True
    assert {"provider": "ollama", "configured": True} in card["providers"]


def test_a_non_commercial_licence_warns(run: Run) -> None:
    assert "NOT FOR COMMERCIAL USE" in run("models", "jina-embeddings-v3").out
    assert run("models", "jina-embeddings-v3", "--json").json["licence_is_non_commercial"] is True
    assert "COMMERCIAL" not in run("models", "bge-m3").out


def test_a_model_of_a_plugin_has_no_card(run: Run, tmp_path: Path) -> None:
    source = (
        "from qwen_embed_plugins import Model, hookimpl\n"
        "@hookimpl\n"
        "def register_models(register):\n"
        "    register(Model('own-model', 64, 512))\n"
    )
    site = install(tmp_path / "site", {"own": source})
    assert "own-model" in run("models", PYTHONPATH=site).out
    page = run("models", "own-model", PYTHONPATH=site)
    assert (page.code, "nobody who is known here" in page.out) == (0, True)
    done = run("models", "own-modle", PYTHONPATH=site)
    assert (done.code, "did you mean 'own-model'" in done.complaint) == (2, True)
