"""What `doctor` finds out about offers: keys, answers, and what a model needs of this machine."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from qwen_embed_plugins.cards import cards
from qwen_embed_plugins.catalogue import Catalogue, ConfiguredOffer, is_named
from qwen_embed_plugins.cli.checking import Check, check_offers
from qwen_embed_plugins.cli.diagnosis import NOBODY, Diagnosis

if TYPE_CHECKING:
    from qwen_embed_plugins.plugins import Registry
    from qwen_embed_plugins.settings import Settings

SMALLEST = "qwen3-embedding-0.6b"
FREE_TIERS = "a service with a free grant (`qwen-embed providers`)"

OVERHEAD = 1.3
"""What a loaded model takes beside its weights, roughly: context and buffers."""

LARGE_PARAMETERS = 2_000_000_000
"""Above so many, a processor alone embeds a page in seconds rather than in tenths of one."""


def of_services(
    settings: Settings, registry: Registry, catalogue: Catalogue, *, ask: bool
) -> Iterator[Diagnosis]:
    """Each offer that may serve: its key, and what came of one short text; and who is left out.
    Without `ask` nothing is sent."""
    for name, reason in catalogue.left_out.items():
        if name not in catalogue.unnamed:
            yield Diagnosis("providers", "wrong", f"{name} does not serve: {reason}")
    for offer in catalogue.offers:
        yield from _of_key(offer, settings)
    checks = check_offers(list(catalogue.offers), settings) if ask else iter(())
    served = False
    for offer, check in zip(catalogue.offers, checks, strict=False):
        served |= check.seconds is not None
        named = is_named(offer.provider.config.name, settings, registry)
        yield from _of_check(check, wrong=named)
    if ask and not served:
        remedy = (
            f"start Ollama and `ollama pull qwen3-embedding`, or set up {FREE_TIERS}; to look "
            'around without a model: model = "lexical"'
        )
        yield Diagnosis("providers", "note", NOBODY, remedy)
    if any(_is_on_this_machine(offer) for offer in catalogue.offers):
        yield from of_machine(catalogue.model.name, Machine.here())


def _of_key(offer: ConfiguredOffer, settings: Settings) -> Iterator[Diagnosis]:
    config, provider = offer.provider.config, type(offer.provider)
    if config.api_key:
        table = settings.providers.get(config.name)
        stated = table.api_key_env if table else None
        variables = (stated, provider.api_key_env, *provider.other_key_envs)
        where = next((name for name in variables if name and os.environ.get(name)), "an argument")
        yield Diagnosis("providers", "ok", f"{offer.key}: its key is in {where}")


def _of_check(check: Check, *, wrong: bool) -> Iterator[Diagnosis]:
    if check.seconds is None:
        said = f"{check.offer} does not answer"
        yield Diagnosis("providers", "wrong" if wrong else "note", said, check.problem or "")
        return
    yield Diagnosis("providers", "ok", check.title.replace(": ok,", " answers:", 1))
    for note in check.notes:
        yield Diagnosis("providers", "note", f"{check.offer}: {note}")


@dataclass(frozen=True, slots=True)
class Machine:
    """What this machine has for a model: memory in gigabytes (None: unknown), and whether anything
    but its processor could compute."""

    memory: float | None
    accelerated: bool

    @classmethod
    def here(cls) -> Machine:
        apple = platform.system() == "Darwin" and platform.machine() == "arm64"
        tools = any(shutil.which(name) for name in ("nvidia-smi", "rocm-smi"))
        return cls(_memory_gigabytes(), apple or tools or Path("/dev/kfd").exists())


def of_machine(model: str, machine: Machine) -> Iterator[Diagnosis]:
    """What to do where the model is too much for the machine that it runs on."""
    card = cards().get(model)
    if card is None or "q4" not in card.sizes or machine.memory is None:
        return
    needed = card.sizes["q4"].gigabytes * OVERHEAD
    here = f"this machine has {machine.memory:.0f} GB"
    here += "" if machine.accelerated else " and no graphics processor that was found"
    said = f"{model} takes about {needed:.1f} GB at 4 bits; {here}"
    instead = f"take {SMALLEST} here, or {FREE_TIERS}"
    if needed > machine.memory * 0.8:
        yield Diagnosis("machine", "note", said, f"too little: {instead}")
    elif (card.parameters or 0) > LARGE_PARAMETERS and not machine.accelerated:
        remedy = f"a query takes a second or more, a table hours: {instead} for the bulk"
        yield Diagnosis("machine", "note", said, remedy)
    else:
        yield Diagnosis("machine", "ok", said)


def _memory_gigabytes() -> float | None:
    """What this process may use: the machine's, or its container's share."""
    try:
        found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None  # Windows
    share = Path("/sys/fs/cgroup/memory.max")
    if share.is_file() and (limit := share.read_text().strip()).isdecimal():
        found = min(found, int(limit))
    return found / 1e9


def _is_on_this_machine(offer: ConfiguredOffer) -> bool:
    return urlsplit(offer.provider.url).hostname in ("127.0.0.1", "localhost", "::1")
