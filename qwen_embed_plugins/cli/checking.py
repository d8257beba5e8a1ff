"""`qwen-embed providers --check`: one short text to each offer, and what comes of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from qwen_embed_plugins.call import KNOWN_GOOD
from qwen_embed_plugins.catalogue import ConfiguredOffer
from qwen_embed_plugins.drivers import run_inspection
from qwen_embed_plugins.embedder import Embedder
from qwen_embed_plugins.errors import (
    NoOfferLeft,
    QwenEmbedError,
    without_secrets,
)
from qwen_embed_plugins.events import AttemptFinished
from qwen_embed_plugins.hookspecs import hookimpl
from qwen_embed_plugins.plugins import load_plugins
from qwen_embed_plugins.settings import Settings
from qwen_embed_plugins.transport import HttpTransport
from qwen_embed_plugins.types import EmbedResult, FaultKind

REMEDIES: Mapping[FaultKind, str] = {
    "quota_spent": "top the account up, or wait for its reset",
    "rate_limited": "wait a little; max_concurrency in [providers.{name}] bounds requests at once",
    "bad_offer": "wire_name in [providers.{name}] says what the model is called there",
    "bad_vector": "see that the right model runs there, in BF16 or FP32 (half precision fails)",
    "unavailable": "try again later; if it cannot be reached from here, set proxy",
}
"""What a user can do about a fault, where its own message does not say it."""

SAY_IT_THEMSELVES: frozenset[FaultKind] = frozenset({"bad_offer", "unavailable"})
"""Faults of a server near by, whose messages name the command that mends them."""


@dataclass(frozen=True, slots=True)
class Check:
    """What came of one text. `seconds` is that of the answer; `problem` says why there is none,
    and what to do. `notes` is what the server says of itself."""

    offer: str
    seconds: float | None = None
    tokens: int = 0
    cost: str = "0"
    problem: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The outcome in a line."""
        if self.seconds is None:
            return f"{self.offer}: failed: {self.problem}"
        return f"{self.offer}: ok, {self.seconds * 1000:.0f} ms, {self.tokens} tokens"

    def as_dict(self) -> dict[str, Any]:
        """All of it, fit for JSON."""
        return {
            "ok": self.seconds is not None,
            "milliseconds": None if self.seconds is None else round(self.seconds * 1000, 1),
            "tokens": self.tokens,
            "cost": self.cost,
            "problem": self.problem,
            "notes": list(self.notes),
        }


class _Attempts:
    """A plugin that remembers how the last attempt ended."""

    kind: FaultKind | None = None

    @hookimpl
    def observe(self, event: Any) -> None:
        if isinstance(event, AttemptFinished):
            self.kind = event.fault


def check_offers(offers: list[ConfiguredOffer], settings: Settings) -> Iterator[Check]:
    """Send one text to each offer, one after another; what fails is told, not raised."""
    transport = HttpTransport()
    try:
        for offer in offers:
            yield _check(offer, settings, transport)
    finally:
        transport.close()


def _check(offer: ConfiguredOffer, settings: Settings, transport: HttpTransport) -> Check:
    attempts = _Attempts()
    registry = load_plugins(extra={"check": attempts})
    try:
        with Embedder(settings, use=[offer.provider.config.name], registry=registry) as embedder:
            result = embedder.embed([KNOWN_GOOD])
    except QwenEmbedError as error:
        said = _said(error, offer)
    else:
        if not result.errors:
            return _served(offer, result, _notes(offer, settings, transport))
        said = result.errors[0].message
    return Check(offer.key, problem=said + _remedy(attempts.kind, offer))


def _served(offer: ConfiguredOffer, result: EmbedResult, notes: tuple[str, ...]) -> Check:
    seconds = result.attempts[-1].seconds
    return Check(offer.key, seconds, result.usage.tokens, str(result.cost), notes=notes)


def _notes(offer: ConfiguredOffer, settings: Settings, transport: HttpTransport) -> tuple[str, ...]:
    """What the server says of itself. That it says nothing is no fault of the offer's."""
    try:
        return run_inspection(offer, transport, settings.timeout_seconds)
    except Exception as error:  # a stranger's plugin runs in it
        key = offer.provider.config.api_key
        said = without_secrets(" ".join(str(error).split()), (key,) if key else ())[:200]
        return (f"could not be inspected: {type(error).__name__}: {said}",)


def _said(error: QwenEmbedError, offer: ConfiguredOffer) -> str:
    if isinstance(error, NoOfferLeft):
        return error.reasons.get(offer.key, str(error))
    return str(error)


def _remedy(kind: FaultKind | None, offer: ConfiguredOffer) -> str:
    remedy = REMEDIES.get(kind) if kind else None
    if remedy is None or (offer.private and kind in SAY_IT_THEMSELVES):
        return ""
    return "; " + remedy.format(name=offer.provider.config.name)
