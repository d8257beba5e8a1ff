"""Pages that are made from the package's data are those that it would make now."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.generate import KINDS, PAGE, page
from docs.known_answers import KNOWN_ANSWERS
from qwen_embed_plugins.offers import Offer
from qwen_embed_plugins.providers import _catalogue

MADE = page()
ROOT = Path(__file__).parent.parent


def test_the_page_of_providers_is_not_stale() -> None:
    assert PAGE.read_text("utf-8") == MADE, "run `make docs`"


@pytest.mark.parametrize("provider", [name for name in _catalogue.providers() if name != "lexical"])
def test_the_page_tells_the_terms_of_every_provider(provider: str) -> None:
    section = MADE.split(f"\n## {provider}\n")[1].split("\n## ")[0]
    for offer in _catalogue.offers_of(provider):
        assert f"| {offer.model} | `{offer.wire_name}` |" in section
        for source in offer.sources.values():
            assert source.url in section
        if _doubtful(offer):
            assert "Verified by nobody: " in section


def _doubtful(offer: Offer) -> bool:
    return any(not source.verified for source in offer.sources.values())


def test_a_limit_that_nobody_verified_has_a_star() -> None:
    section = MADE.split("\n## scaleway\n")[1].split("\n## ")[0]
    assert "32k tokens a text; 20 requests a minute\\*; 50 requests a day\\*" in section


def test_answers_are_known_of_providers_and_kinds_alone() -> None:
    assert KNOWN_ANSWERS.keys() <= {*_catalogue.providers(), *(kind for kind, *_ in KINDS)}


def test_an_answer_of_ollama_has_the_fault_that_its_code_gives() -> None:
    section = MADE.split("\n## ollama\n")[1].split("\n## ")[0]
    assert "| the model is not pulled | bad_offer |" in section
    assert "| a text does not fit the context | too_large |" in section


def test_the_readme_leads_to_the_page() -> None:
    assert "(docs/providers.md)" in (ROOT / "README.md").read_text("utf-8")
