"""What is counted as spent, which limits hold, and settings from odd places."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from qwen_embed_plugins import ConfigurationError, Embedder, InvalidInput, Offer, Settings
from qwen_embed_plugins.deadlines import Deadline
from qwen_embed_plugins.drivers import run_exchange
from qwen_embed_plugins.effects import Job
from qwen_embed_plugins.provider import retry_after
from qwen_embed_plugins.types import Batch, Fault, WireRequest, WireResponse

Made = Callable[..., Embedder]


class Answering:
    """A transport whose every answer is this one."""

    def __init__(self, response: WireResponse) -> None:
        self.response = response

    def send(self, request: WireRequest, job: Job, deadline: Deadline) -> WireResponse:
        return self.response


@pytest.mark.parametrize(
    ("response", "counted"),
    [
        (WireResponse(200, b"<html>"), True),
        (WireResponse(200, b'{"data": [{"index": 7, "embedding": [1]}]}'), True),
        (WireResponse(500, b"<html>"), False),
        (WireResponse(429, b"{}"), False),
    ],
)
def test_an_answer_that_cannot_be_read_may_have_been_counted(
    response: WireResponse, counted: bool
) -> None:
    table = {"kind": "openai-compatible", "base_url": "https://api.example.com"}
    settings = Settings.load(providers={"mine": {**table, "price_per_million": "1"}}, use=["mine"])
    [offer] = Embedder(settings)._setup.catalogue.offers
    batch = Batch(["a"], "document", offer.model, "wire")
    finished = run_exchange(Job(0, offer, batch, 1.0, 1000), Answering(response))
    assert isinstance(finished.outcome, Fault)
    assert finished.maybe_served is counted


def test_naming_one_limit_does_not_lift_another(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("[budget]\nusd_per_day = 0\n")
    environ = {"QWEN_EMBED_BUDGET_USD_TOTAL": "5"}
    settings = Settings.load(file, environ=environ)
    assert (settings.budget.usd_per_day, settings.budget.usd_total) == (Decimal(0), Decimal(5))
    with Embedder(settings, budget={"usd_total": "7"}) as embedder:
        budget = embedder.settings.budget
    assert (budget.usd_per_day, budget.usd_total) == (Decimal(0), Decimal(7))


def test_a_variable_of_the_tests_is_no_setting() -> None:
    assert Settings.load(environ={"QWEN_EMBED_TEST_SEED": "5"}).origins == {}


def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_bytes(b"\xef\xbb\xbfdimensions = 64\n")
    assert Settings.load(file).dimensions == 64


def test_an_env_file_in_another_encoding_is_a_line(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_bytes(b"KEY=\xff\xfe\n")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        Settings.load(env_file=str(file))


@pytest.mark.parametrize("name", ["path", "environ", "dimension"])
def test_a_mapping_takes_settings_only(name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        Embedder({name: {}})


@pytest.mark.parametrize("texts", [None, 5])
def test_what_is_no_list_at_all_is_refused(made: Made, texts: Any) -> None:
    with pytest.raises(InvalidInput, match="expected a list"):
        made().embed(texts)


@pytest.mark.parametrize("instruction", ["\ud800", 5])
def test_a_bad_instruction_is_the_callers_fault_and_no_offers(made: Made, instruction: Any) -> None:
    embedder = made()
    with pytest.raises(InvalidInput, match="instruction"):
        embedder.embed_query("a", instruction=instruction)


@pytest.mark.parametrize("name", ["retry-after", "retry-after-ms"])
def test_nobody_is_told_to_wait_for_ever(name: str) -> None:
    for value in ("9" * 400, "99999999999", "inf"):
        told = retry_after({name: value})
        assert told is None or told <= 86_400


@pytest.mark.parametrize(
    "wrong",
    [
        {"price_per_million": "0.04"},
        {"price_per_million": 0.04},
        {"price_per_million": Decimal("NaN")},
        {"max_inputs": 0},
        {"max_inputs": -1},
        {"max_concurrency": "8"},
    ],
)
def test_an_offer_with_wrong_terms_is_its_plugins_failure(made: Made, wrong: Any) -> None:
    offer = Offer("qwen3-embedding-0.6b", "w", **wrong)
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        made(offers=[offer])


def test_offers_may_come_from_a_generator(made: Made) -> None:
    offers = (Offer(name, "w") for name in ["qwen3-embedding-0.6b"])
    [offer] = made(offers=offers)._setup.catalogue.offers
    assert offer.offer.wire_name == "w"


def test_a_budget_is_used_up_before_a_call_gives_up(made: Made) -> None:
    terms = Offer("qwen3-embedding-0.6b", "w", Decimal("1000"), max_inputs=10)
    embedder = made(
        offers=[terms],
        base_url="https://api.example.com",
        settings={"budget": {"usd_per_day": "1"}},
    )
    letters = str.maketrans("0123456789", "abcdefghij")
    texts = [f"text number {number:06d} with words".translate(letters) for number in range(2000)]
    result = embedder.embed(texts)
    assert Decimal("0.8") < result.cost <= 1
    assert embedder._setup.ledger.reserved == 0  # type: ignore[attr-defined]
