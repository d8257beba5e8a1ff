"""The plugin author's side of the contract: a batch becomes a request, an answer becomes vectors.

A provider does no I/O and knows neither threads nor event loops. The core sends what it builds,
checks what it parses, and decides by the fault kinds what happens next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from qwen_embed_plugins.errors import ProviderError, without_secrets
from qwen_embed_plugins.models import Model
from qwen_embed_plugins.types import (
    Answer,
    Batch,
    Exchange,
    Fault,
    Inspection,
    Role,
    TransportFailure,
    WireRequest,
    WireResponse,
)

LONGEST_RETRY_AFTER_SECONDS = 86_400.0
"""A day: a server that says more is asked again all the same, lest a slip takes it out for ever."""


@dataclass(frozen=True, slots=True)
class ProviderConfig:
    """One configured account with a provider: what settings and environment gave.

    `options` holds the provider's own typed options (see `Provider.options`). All but the name is
    left out of `repr`: keys, and passwords in addresses.
    """

    name: str
    base_url: str | None = field(default=None, repr=False)
    api_key: str | None = field(default=None, repr=False)
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)


class Provider:
    """Base of all providers. A subclass sets the class attributes and writes `build_request` and
    `parse_response`, or `exchange` alone where it computes in process. `classify` refines faults.

    Raise `ProviderError(Fault(...))` from `parse_response` for an error inside a good status; any
    other exception there means that the answer could not be read.
    """

    name: ClassVar[str]
    """The name in settings: `[providers.<name>]`, `use = ["<name>"]`."""

    base_url: ClassVar[str | None] = None
    """Where requests go unless settings name another place; None: settings must name it."""

    base_url_env: ClassVar[str | None] = None
    """A variable that may hold the base URL (Ollama's `OLLAMA_HOST`)."""

    api_key_env: ClassVar[str | None] = None
    """The variable that holds the key; None: the provider works without one."""

    other_key_envs: ClassVar[tuple[str, ...]] = ()
    """Further variables in which people keep that key, looked at in this order after the first."""

    serves_any_model: ClassVar[bool] = False
    """A kind of server that holds whatever model its owner loaded: where no offers are registered
    for it, they are made on demand."""

    needs_address: ClassVar[bool] = False
    """Settings must say where it is, since `base_url` is None and it is reached over a network."""

    needs_naming: ClassVar[bool] = False
    """Serves only when settings name it: in `use`, in a `[providers]` table, or as the model."""

    found_without_key: ClassVar[bool] = False
    """Tried without being named, since asking costs nothing (Ollama on this machine)."""

    adds_instruction: ClassVar[bool] = False
    """The server puts the instruction before queries itself; batches then come with bare texts."""

    encoding: ClassVar[Literal["base64", "float"]] = "base64"
    """How to ask for vectors first: base64 where the service documents it or may be tried, since
    it is several times smaller and faster; float where it is known to refuse anything else."""

    never_cuts: ClassVar[bool] = False
    """A text is read whole or refused, as this plugin asks for it. Elsewhere an offer must prove,
    with two long texts that differ at their ends, that it reads so far (`reading.py`)."""

    exchange_seconds: ClassVar[float | None] = None
    """The longest that a whole exchange may take, where one needs longer than a single request:
    submit and poll. None, or less than the user's `timeout_seconds`: that long."""

    options: ClassVar[Mapping[str, type]] = {}
    """Further settings of this provider, with their types (`{"account_id": str}`)."""

    option_envs: ClassVar[Mapping[str, str]] = {}
    """Variables that hold options where settings do not (`{"account_id": "ACME_ACCOUNT_ID"}`)."""

    required_options: ClassVar[tuple[str, ...]] = ()
    """Options without which no request can be built."""

    def __init__(self, config: ProviderConfig) -> None:
        self.config = config

    @property
    def url(self) -> str:
        """The configured base URL, without a slash at its end."""
        return (self.config.base_url or self.base_url or "").rstrip("/")

    @property
    def variant(self) -> str:
        """What else decides which machine computes the vectors, besides address and wire name (an
        upstream behind a gateway). What is learnt of one variant is not believed of another."""
        return ""

    @classmethod
    def url_from_environment(cls, value: str) -> str:
        """The base URL that the variable `base_url_env` means; by default, just its value."""
        return value

    def build_request(self, batch: Batch) -> WireRequest:
        """The request that asks for the vectors of the batch, in order."""
        raise NotImplementedError(f"{type(self).__name__} must define build_request")

    def parse_response(self, response: WireResponse) -> Answer:
        """The vectors of a response with status 200, in the order of the batch."""
        raise NotImplementedError(f"{type(self).__name__} must define parse_response")

    def classify(self, answer: WireResponse | TransportFailure) -> Fault:
        """What a refusal or a failure means. The default knows statuses only."""
        if isinstance(answer, TransportFailure):
            return Fault("unavailable", str(answer))
        return classify_by_status(answer)

    def inspect(self, wire_name: str, model: Model) -> Inspection:
        """Ask the server about itself for `qwen-embed providers --check`, beyond the one text that
        is embedded there: yields as `exchange` does, returns notes for people. Optional."""
        yield from ()
        return ()

    def exchange(self, batch: Batch) -> Exchange:
        """The requests that serve one batch: one, unless a provider needs more.

        Yield `WireRequest` (gives a `WireResponse`, or raises `TransportFailure` here),
        `Pause(seconds)` or `Call(function)` (gives its result); return the `Answer`. A step
        that would outlast the exchange's time raises `TransportFailure` here; once that time is
        over, an exchange that goes on all the same is ended.
        """
        response = yield self.build_request(batch)
        if response.status != 200:
            raise ProviderError(self.classify(response))
        return self.parse_response(response)


def prefixed(texts: Sequence[str], role: Role, instruction: str | None, model: Model) -> list[str]:
    """The texts with what the model's card puts before a text of that role, and nothing else."""
    if role == "query" and model.format_query is not None:
        return [model.format_query(text, instruction or "") for text in texts]
    if role == "document" and model.format_document is not None:
        return [model.format_document(text) for text in texts]
    return list(texts)


def classify_by_status(response: WireResponse, message: str | None = None) -> Fault:
    """A fault from the status alone, as HTTP defines it; providers refine it by their codes."""
    text = message if message is not None else excerpt(response)
    said = f"HTTP {response.status}: {text}" if text else f"HTTP {response.status}"
    match response.status:
        case 400 | 422:
            return Fault("bad_input", said)
        case 401 | 403:
            return Fault("bad_key", said, scope="account")
        case 402:
            return Fault("quota_spent", said, scope="account")
        case 404 | 405 | 410:
            return Fault("bad_offer", said)
        case 413:
            return Fault("too_large", said)
        case 429:
            return Fault("rate_limited", said, retry_after_seconds=retry_after(response.headers))
        case _:
            return Fault("unavailable", said, retry_after_seconds=retry_after(response.headers))


def excerpt(response: WireResponse, limit: int = 200) -> str:
    """The first characters of a body on one line, cleaned of what looks like a secret."""
    text = response.content[: limit * 8].decode("utf-8", "replace")
    return without_secrets(" ".join(text.split()))[:limit]


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds from `retry-after-ms` or `retry-after` (a number or an HTTP date), None without."""
    from email.utils import parsedate_to_datetime
    from time import time

    try:
        if "retry-after-ms" in headers:
            told = float(headers["retry-after-ms"]) / 1000
            return min(max(0.0, told), LONGEST_RETRY_AFTER_SECONDS)
        if "retry-after" not in headers:
            return None
        value = headers["retry-after"].strip()
        if value.replace(".", "", 1).isdigit():
            return min(float(value), LONGEST_RETRY_AFTER_SECONDS)
        told = parsedate_to_datetime(value).timestamp() - time()
        return min(max(0.0, told), LONGEST_RETRY_AFTER_SECONDS)
    except (ValueError, TypeError, OverflowError):
        return None
