"""`docs/providers.md`, from what the package knows of providers.

Terms come from `data/offers.toml`, keys and addresses from the provider classes, and refusals from
`tests/services`, where each is held to what the code makes of it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from docs.generators.markdown import table
from qwen_embed_plugins.cli.terms import (
    LABELS,
    claim_text,
    doubt,
    fact_texts,
    grant_text,
    limit_texts,
    price_text,
)
from qwen_embed_plugins.offers import Offer, Source
from qwen_embed_plugins.plugins import RegisteredProvider, load_plugins
from qwen_embed_plugins.providers import _catalogue

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

STAR = "\\*"

ANSWERS = Path(__file__).parent.parent.parent / "tests" / "services"
"""One TOML file for each service; an `[[error]]` is an answer that it was read or seen to give."""

LONGEST_ANSWER = 160
"""Characters of an answer that are shown: enough to know it again."""

HEAD = """\
# Providers

This page is made from the package's own data (`make docs`); do not edit it. The same facts, for \
the version that is installed, are in `qwen-embed providers NAME` and in `--json`.

Every fact has a source and the month in which it was read. A star marks what the provider itself \
does not say: it comes from a third party, from an issue, or from hearsay. Prices \
and limits age. Settings override each of them, and an offer whose price nobody knows is not used \
while a budget is set.

A grant counts as free once it is claimed, since nobody here can see whether the account has it: \
`free = true` in `[providers.NAME]`, with `free_until` where it lasts some days: a time, or the \
first day that is not free, in UTC. Or state yours: `free_tokens`, `free_usd` or \
`free_tokens_per_day`, which renews at `free_reset`, for example "00:00 America/Los_Angeles" \
(default: "00:00 UTC"); a stated `requests_per_day` then counts from that hour too, else over any \
24 hours. Limits of an account (requests and tokens per \
minute or day, requests at once) are kept where the provider itself states them. The others are \
marked "not enforced": they are only shown, until settings state them.

Prices are for a million tokens. In other currencies than dollars they count as a little more than \
they are, so that a budget in dollars holds: {currencies}.
"""

NOT_TRIED = """\
## What could not be tried

No service was called for this page: there was no account, and what is known was read. Nobody has \
seen for the services listed here

- whether the vectors of `text-embedding-v4` are those of an open size: it serves a Qwen3 space \
only once `qwen-embed verify` has measured it, or with `trust = true`;
- which precision a service computes in, and whether it appends the end token: the first meeting \
of two offers compares their vectors;
- what an account without money is answered by DeepInfra, SiliconFlow, Fireworks and Novita;
- the limits of DashScope and Scaleway for a new account, which only their consoles show;
- the grants and the routes from Russia that have a star.

`qwen-embed providers --check` tries those that are set up, with one short text each.

Of the servers that people run themselves, four were tried for real (`make test-wide`, on a \
processor, with the weights of all-MiniLM-L6-v2): llama.cpp's server (build 11434), Infinity \
0.0.78, vLLM 0.32.0 and llama-cpp-python's server 0.3.36. Their vectors agree to a cosine above \
0.9999. Ollama, TEI and LM Studio could not be had from package registries, and no Qwen3 weights \
either: what is said of these was read in their sources and documentation.
"""

OWN_SERVERS = """\
## Kinds of servers you run yourself

A table `[providers.NAME]` with `kind` and `base_url` names one. They have no offers of their own: \
each serves the model that it was started with, and costs nothing at a private address.

With one model loaded, llama.cpp's server, Infinity and llama-cpp-python's answer for any model \
name with the vectors of the one that they have. Only the length of the vectors, and the \
comparison with another offer, show a wrong one. Infinity and llama-cpp-python cut long texts \
without a word; a pair of long texts shows it, and such an offer is left out.
"""

KINDS = (
    ("openai-compatible", "-", "Any server with OpenAI's route for embeddings."),
    (
        "vllm",
        "http://127.0.0.1:8000/v1",
        "Start it with `--dtype bfloat16`. Shorter vectors are refused unless it was started for "
        "them, and are not asked for.",
    ),
    (
        "tei",
        "http://127.0.0.1:3000",
        "Half precision is its default on graphics cards and fails with the 8B: `--dtype float32`. "
        "Versions before June 2025 gave other vectors.",
    ),
    (
        "llama-cpp",
        "http://127.0.0.1:8080/v1",
        "Start it with `--embedding`, and `-b` and `-ub` as large as the longest text (512 tokens "
        "otherwise). Model files made before August 2025 may lack the end token.",
    ),
    (
        "infinity",
        "http://127.0.0.1:7997",
        "No `/v1` in its address. It strips spaces at both ends of a text, counts characters as "
        "tokens unless started with `--lengths-via-tokenize`, and cuts what is too long.",
    ),
    (
        "lm-studio",
        "http://127.0.0.1:1234/v1",
        "Its documented answer counts no tokens; ours are estimates.",
    ),
)


def page() -> str:
    """The whole page."""
    from qwen_embed_plugins.offers import USD_PER_UNIT

    registered = load_plugins(found=()).providers
    names = [name for name in _catalogue.providers() if name != "lexical"]
    currencies = ", ".join(
        f"1 {unit} = {rate} USD" for unit, rate in USD_PER_UNIT.items() if unit != "USD"
    )
    parts = [HEAD.format(currencies=currencies), *_glance(names), NOT_TRIED]
    for name in names:
        parts += _provider(name, registered.get(name))
    parts += [OWN_SERVERS, *table(("Kind", "Usual address", "Good to know"), _kinds())]
    for kind, *_ in KINDS:
        told = list(answers(kind))
        parts += [f"### {kind}\n", *told] if told else []
    return "\n".join(parts)


def _glance(names: Sequence[str]) -> Iterator[str]:
    yield "## Prices and grants\n"
    rows = []
    for name in names:
        for offer in _catalogue.offers_of(name):
            grant = grant_text(offer.grant, note=False) if offer.grant else ""
            batch = price_text(offer.batch_price_per_million, offer.currency)
            rows.append(
                (
                    f"[{name}](#{name})",
                    offer.model + (" (unproven)" if offer.membership == "unproven" else ""),
                    _price(name, offer),
                    batch + _star(offer, "batch_price_per_million") if batch != "unknown" else "",
                    grant + _star(offer, "grant") if grant else "",
                )
            )
    yield from table(("Provider", "Model", "Price", "Deferred batches", "Grant"), rows)


def _price(name: str, offer: Offer) -> str:
    if name == "ollama":
        return "free, on your machine"
    said = price_text(offer.price_per_million, offer.currency)
    return said + _star(offer, "price_per_million")


def _provider(name: str, declared: RegisteredProvider | None) -> Iterator[str]:
    offers = _catalogue.offers_of(name)
    yield f"## {name}\n"
    account = [f"- {said}" for said in _account(name, offers[0], declared)]
    if account:
        yield "\n".join(account) + "\n"
    rows = [
        (
            offer.model,
            f"`{offer.wire_name}`",
            f"{offer.dimensions:,}" if offer.dimensions else "the model's",
            "; ".join(limit_texts(offer, STAR)),
            (offer.precision or "") + _star(offer, "precision"),
        )
        for offer in offers
    ]
    yield from table(("Model", "Name there", "Numbers", "Limits", "Precision"), rows)
    yield from answers(name)
    yield from _unverified(offers)
    yield from _sources(offers)


def _account(name: str, offer: Offer, declared: RegisteredProvider | None) -> Iterator[str]:
    """What holds for the account, whatever the model."""
    if declared is not None:
        provider = declared.provider
        keys = filter(None, (provider.api_key_env, *provider.other_key_envs))
        if provider.base_url:
            yield f"address: `{provider.base_url}`"
        if provider.api_key_env:
            yield "key: " + " or ".join(f"`{key}`" for key in keys)
        for option in provider.required_options:
            variable = provider.option_envs.get(option)
            yield f"needs: `{option}`" + (f", or `{variable}`" if variable else "")
    for fact in ("country", "registration", "route_from_russia", "grant"):
        said = fact_texts(offer).get(fact)
        if said is not None:
            yield f"{LABELS[fact]}: {said}{_star(offer, fact)}"
    if offer.grant:
        yield f"to claim the grant: {claim_text(offer.grant, name)}"


def answers(name: str, folder: Path = ANSWERS) -> Iterator[str]:
    """The error answers that somebody has read of a service, and what the package makes of each."""
    stated = _stated_answers(name, folder)
    if stated:
        yield "Refusals that were read, and what the package makes of them:\n"
        rows = [(item["name"], _shown(item), item["kind"], item["source"]) for item in stated]
        yield from table(("Refusal", "Answer", "Fault", "Read in"), rows)


def _stated_answers(name: str, folder: Path) -> list[dict[str, Any]]:
    """The answers in a service's file, and those of the service that it is like."""
    file = folder / f"{name}.toml"
    if not file.is_file():
        return []
    table = tomllib.loads(file.read_text("utf-8"))
    own: list[dict[str, Any]] = table.get("error", [])
    return own + (_stated_answers(table["like"], folder) if "like" in table else [])


def _shown(answer: dict[str, Any]) -> str:
    if "json" in answer:
        body = json.dumps(answer["json"], ensure_ascii=False)
    else:
        body = " ".join(answer.get("body", "").split())
    short = body if len(body) <= LONGEST_ANSWER else body[: LONGEST_ANSWER - 1] + "…"
    said = f"{answer['status']} {short}".rstrip().replace("`", "'")
    return f"`{said}`"


def _unverified(offers: Sequence[Offer]) -> Iterator[str]:
    doubtful = {
        LABELS[fact]: None
        for offer in offers
        for fact in LABELS
        if fact in offer.sources and not offer.sources[fact].verified
    }
    if doubtful:
        yield f"Verified by nobody: {', '.join(doubtful)}.\n"


def _sources(offers: Sequence[Offer]) -> Iterator[str]:
    sources: dict[Source, None] = {}
    for offer in offers:
        sources |= dict.fromkeys(offer.sources[name] for name in _facts(offer))
    told = [f"{_link(source)} ({source.evidence}, read {source.read})" for source in sources]
    yield "Sources: " + "; ".join(told) + ".\n"


def _facts(offer: Offer) -> list[str]:
    return [item.name for item in fields(Offer) if item.name in offer.sources]


def _link(source: Source) -> str:
    return f"<{source.url}>" if source.url.startswith("https://") else source.url


def _kinds() -> Iterator[tuple[str, str, str]]:
    for kind, address, notes in KINDS:
        yield f"`{kind}`", f"`{address}`" if address != "-" else "", notes


def _star(offer: Offer, fact: str) -> str:
    return doubt(offer, fact, STAR)
