"""Model cards: what people are told of a model, from `data/models.toml`. Nothing here affects a
vector; what does stands in `models`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from qwen_embed_plugins.errors import ConfigurationError
from qwen_embed_plugins.facts import Facts, read_facts
from qwen_embed_plugins.offers import Source

FILE = "models.toml"

BITS_PER_WEIGHT = {"q4": 4.5, "fp16": 16.0}
"""Q4_0 keeps 32 weights of 4 bits with one scale of 16 (ggml-org/llama.cpp:ggml/src/ggml-common.h,
`block_q4_0`). Q4_K_M, which Ollama prefers, takes a little more."""


class Size(NamedTuple):
    """How large a model's weights are, on disk and, once loaded, in memory; a long text needs more
    memory. Without a source it is computed from the parameters."""

    gigabytes: float
    source: Source | None = None

    @property
    def computed(self) -> bool:
        return self.source is None


class Figure(NamedTuple):
    """One published score; `score` is printed as its source prints it."""

    benchmark: str
    score: str
    source: Source


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What is known of one model. `sizes` has the weights at "q4" and "fp16", where known.

    `choose` and `avoid` are sentences: when to take it, and when not. `instead` names other models
    for that case. `caution` is one thing that goes wrong with it. `sources` says by field where a
    fact was read.
    """

    model: str
    licence: str
    choose: str
    avoid: str
    licence_is_non_commercial: bool = False
    instead: tuple[str, ...] = ()
    caution: str = ""
    parameters: int | None = None
    sizes: Mapping[str, Size] = field(default_factory=dict)
    quality: tuple[Figure, ...] = ()
    sources: Mapping[str, Source] = field(default_factory=dict)


@lru_cache(maxsize=1)
def cards() -> Mapping[str, ModelCard]:
    """All cards by the model's name. A plugin's model has none."""
    facts = read_facts(FILE)
    return {model: card_from(model, stated, facts) for model, stated in facts.tables.items()}


def card_from(model: str, stated: Mapping[str, Any], facts: Facts) -> ModelCard:
    """The card that a table states. Raises `ConfigurationError` where a source is missing or a key
    is unknown."""
    default = facts.source(stated.get("source"), model)
    values: dict[str, Any] = {}
    sources: dict[str, Source] = {}
    for name, value in stated.items():
        if name != "source":
            values[name], sources[name] = _fact(value, default, facts, f"{model}.{name}")
    try:
        return ModelCard(
            model=model,
            licence_is_non_commercial=values.pop("non_commercial", False),
            instead=tuple(values.pop("instead", ())),
            quality=tuple(
                _figure(figure, default, facts, model) for figure in values.pop("quality", ())
            ),
            sizes=_sizes(values, sources),
            sources=sources,
            **values,
        )
    except TypeError as error:
        raise ConfigurationError(f"{FILE}: {model}: {error}") from None


def _fact(value: Any, default: Source, facts: Facts, where: str) -> tuple[Any, Source]:
    if isinstance(value, Mapping):
        return value["value"], facts.source(value["source"], where)
    return value, default


def _figure(stated: Mapping[str, str], default: Source, facts: Facts, model: str) -> Figure:
    source = facts.source(stated["source"], model) if "source" in stated else default
    return Figure(stated["benchmark"], stated["score"], source)


def _sizes(values: dict[str, Any], sources: Mapping[str, Source]) -> dict[str, Size]:
    """The sizes as stated, and computed where they are not but the parameters are."""
    sizes: dict[str, Size] = {}
    for precision, bits in BITS_PER_WEIGHT.items():
        stated = values.pop(f"disk_{precision}_gb", None)
        if stated is not None:
            sizes[precision] = Size(stated, sources[f"disk_{precision}_gb"])
        elif values.get("parameters"):
            sizes[precision] = Size(round(values["parameters"] * bits / 8e9, 2))
    return sizes
