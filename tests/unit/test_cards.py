"""Model cards: every figure has its source, and what is computed is marked."""

from __future__ import annotations

from typing import Any

import pytest

from qwen_embed_plugins.cards import card_from, cards
from qwen_embed_plugins.errors import ConfigurationError
from qwen_embed_plugins.facts import Facts, read_facts
from qwen_embed_plugins.models import MODELS
from qwen_embed_plugins.offers import Source
from qwen_embed_plugins.providers.lexical import LEXICAL

CARDS = cards()
KNOWN = {model.name: model for model in (*MODELS, LEXICAL)}
PAGE = Source("https://example.com/card", "2026-11")
FORUM = Source("https://example.org/thread", "2026-10", "third party")
FACTS = Facts("models.toml", {}, {"page": PAGE, "forum": FORUM})
STATED: dict[str, Any] = {"source": "page", "licence": "MIT", "choose": "Yes.", "avoid": "No."}


def test_every_model_has_a_card() -> None:
    assert CARDS.keys() == KNOWN.keys()


@pytest.mark.parametrize("name", KNOWN)
def test_a_card_says_all_that_is_asked_of_it(name: str) -> None:
    card, model = CARDS[name], KNOWN[name]
    assert card.choose
    assert card.avoid
    assert card.licence.startswith("closed") == model.closed
    assert set(card.instead) <= KNOWN.keys() - {name}
    assert card.instead
    # Weights that one can have, one can also run.
    assert bool(card.sizes) == (card.parameters is not None)
    assert bool(card.sizes) == (model.hub_name is not None)
    for source in [*card.sources.values(), *(figure.source for figure in card.quality)]:
        assert source.read == "2026-11"


def test_a_non_commercial_licence_is_marked() -> None:
    marked = {name for name, card in CARDS.items() if card.licence_is_non_commercial}
    assert marked == {name for name, card in CARDS.items() if "NC" in card.licence}
    assert marked == {"jina-embeddings-v3"}


def test_the_figures_of_one_table_are_ranked_as_it_ranks_them() -> None:
    means = {
        name: float(figure.score)
        for name, card in CARDS.items()
        for figure in card.quality
        if figure.benchmark == "MTEB multilingual, mean of tasks"
    }
    ranked = sorted(means, key=lambda name: -means[name])
    assert ranked[:2] == ["qwen3-embedding-8b", "qwen3-embedding-4b"]
    assert means["qwen3-embedding-8b"] == 70.58


def test_sizes_are_stated_or_computed_from_the_parameters() -> None:
    stated = {**STATED, "parameters": 2_000_000_000}
    card = card_from("m", {**stated, "disk_q4_gb": {"value": 1.5, "source": "forum"}}, FACTS)
    assert (card.sizes["q4"].gigabytes, card.sizes["q4"].source) == (1.5, FORUM)
    assert (card.sizes["fp16"].gigabytes, card.sizes["fp16"].computed) == (4.0, True)
    assert card_from("m", stated, FACTS).sizes["q4"].gigabytes == pytest.approx(1.12, abs=0.01)
    assert card_from("m", STATED, FACTS).sizes == {}


def test_computed_sizes_are_near_those_that_were_stated() -> None:
    for card in CARDS.values():
        for precision, size in card.sizes.items():
            bits = {"q4": 4.5, "fp16": 16}[precision]
            computed = (card.parameters or 0) * bits / 8e9
            assert size.gigabytes == pytest.approx(computed, rel=0.15), (card.model, precision)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"source": "nowhere"}, "no source 'nowhere'"),
        ({"licence": {"value": "MIT", "source": "nobody"}}, "m.licence: no source 'nobody'"),
        ({"quality": [{"benchmark": "b", "score": "1", "source": "x"}]}, "no source 'x'"),
        ({"license": "MIT"}, "unexpected keyword argument 'license'"),
    ],
)
def test_what_is_refused(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        card_from("m", {**STATED, **change}, FACTS)


def test_no_source_is_named_in_vain() -> None:
    read = {source.url for card in CARDS.values() for source in card.sources.values()}
    read |= {figure.source.url for card in CARDS.values() for figure in card.quality}
    read |= {
        size.source.url for card in CARDS.values() for size in card.sizes.values() if size.source
    }
    assert {source.url for source in read_facts("models.toml").sources.values()} == read
