"""Ollama, on this machine or another, by its native route.

`/api/embed` and not `/v1/embeddings`: only the native route can refuse a text that is too long
(`truncate: false`); the other one cuts it without a word (ollama/ollama:middleware/openai.go, read
at v0.33.0-rc2).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from ipaddress import IPv6Address
from typing import Any, ClassVar

from qwen_embed_plugins.hookspecs import hookimpl
from qwen_embed_plugins.models import Model
from qwen_embed_plugins.provider import Provider
from qwen_embed_plugins.providers import _catalogue
from qwen_embed_plugins.providers._ollama_notes import notes_on
from qwen_embed_plugins.providers._openai_wire import (
    get,
    load_json,
    no_rows,
    post_json,
    stacked,
    to_row,
)
from qwen_embed_plugins.providers._refusals import fault_of, read_refusal, words_of
from qwen_embed_plugins.types import (
    Answer,
    Batch,
    Fault,
    Inspection,
    TransportFailure,
    WireRequest,
    WireResponse,
)

DEFAULT_PORT = "11434"

# What a server that listens everywhere is called, and where a client finds it.
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "": "127.0.0.1"}  # noqa: S104 (read only)

_TOO_LONG = re.compile(
    r"(?i)exceeds the (available )?context|exceed_context_size|too large to process|maximum context"
)
_NOT_FINITE = re.compile(r"NaN")
_NO_EMBEDDINGS = re.compile(r"(?i)does not support embeddings")


def ollama_url(value: str) -> str:
    """The base URL that a value of `OLLAMA_HOST` means, in all forms that Ollama accepts.

    Follows `getOllamaHost` (ollama/ollama:envconfig/config.go, read 2026-11): quotes and spaces go,
    the port is 11434, or the scheme's own if one is written, and a port that is none is replaced.
    An address to listen on becomes the loopback address, where a client can reach it.

    >>> ollama_url("0.0.0.0"), ollama_url("gpu-box:8080"), ollama_url("https://example.com/")
    ('http://127.0.0.1:11434', 'http://gpu-box:8080', 'https://example.com:443')
    """
    value = value.strip().strip("\"'").strip()
    scheme, _, place = value.rpartition("://")
    port = {"http": "80", "https": "443"}.get(scheme, DEFAULT_PORT)
    place, _, path = place.partition("/")
    host, given = _host_and_port(place)
    if given is not None and given.isdecimal() and int(given) <= 65535:
        port = given
    path = "/" + path.strip("/") if path.strip("/") else ""
    return f"{scheme or 'http'}://{_EVERYWHERE.get(host, host)}:{port}{path}"


def _host_and_port(place: str) -> tuple[str, str | None]:
    if place.isdecimal():
        return "", place
    if place.count(":") > 1 and _is_ipv6(place):  # without brackets
        return f"[{place}]", None
    head, colon, tail = place.rpartition(":")
    if colon and not tail.endswith("]"):
        return head, tail
    return place, None


def _is_ipv6(place: str) -> bool:
    try:
        IPv6Address(place)
    except ValueError:
        return False
    return True


class Ollama(Provider):
    """`/api/embed`: unit vectors as JSON numbers, tokens counted over all texts of the request."""

    name = "ollama"
    base_url = "http://127.0.0.1:11434"
    base_url_env = "OLLAMA_HOST"
    found_without_key = True
    never_cuts = True
    options: ClassVar[dict[str, type]] = {"num_ctx": int, "keep_alive": str}
    """`num_ctx`: context in tokens (Ollama's default is 4,096 below 24 GiB of video memory);
    `keep_alive`: how long the model stays loaded, such as "30m"."""

    @classmethod
    def url_from_environment(cls, value: str) -> str:
        return ollama_url(value)

    def build_request(self, batch: Batch) -> WireRequest:
        body: dict[str, Any] = {
            "model": batch.wire_name,
            "input": list(batch.texts),
            "truncate": False,
        }
        options = self.config.options
        if "num_ctx" in options:
            body["options"] = {"num_ctx": options["num_ctx"]}
        if "keep_alive" in options:
            body["keep_alive"] = options["keep_alive"]
        # A key is for a proxy before it, or for Ollama's cloud.
        return post_json(f"{self.url}/api/embed", body, key=self.config.api_key)

    def parse_response(self, response: WireResponse) -> Answer:
        key = self.config.api_key
        body = load_json(response, key=key)
        rows = body.get("embeddings") if isinstance(body, dict) else None
        if not isinstance(rows, list):
            raise no_rows("embeddings", response, key)
        tokens = body.get("prompt_eval_count")
        counted = tokens if type(tokens) is int and tokens > 0 else None
        return Answer(stacked([to_row(row) for row in rows]), counted, "float")

    def inspect(self, wire_name: str, model: Model) -> Inspection:
        key = self.config.api_key
        response = yield post_json(f"{self.url}/api/show", {"model": wire_name}, key=key)
        if response.status != 200:
            return (self.classify(response).message,)
        shown = load_json(response, key=key)
        running = yield get(f"{self.url}/api/ps", key=key)
        loaded = _loaded(wire_name, load_json(running, key=key)) if running.status == 200 else None
        if not isinstance(shown, dict):
            return (f"/api/show gave no object: {words_of(response, key, 80)}",)
        return tuple(notes_on(model, shown, loaded, self.config.options.get("num_ctx")))

    def classify(self, answer: WireResponse | TransportFailure) -> Fault:
        fault = fault_of(answer, key=self.config.api_key)
        if isinstance(answer, TransportFailure):
            return self._unreachable(answer, fault)
        said = read_refusal(answer).message
        if answer.status == 404:
            remedy = _remedy_for_missing(said, self.url)
            return replace(fault, kind="bad_offer", message=f"{fault.message}; {remedy}")
        if answer.status == 503 and "busy" in said:
            # The queue is full (OLLAMA_MAX_QUEUE); there is no Retry-After.
            return replace(fault, kind="rate_limited")
        if answer.status in (400, 500, 501):
            return _by_message(said, fault)
        return fault

    def _unreachable(self, failure: TransportFailure, fault: Fault) -> Fault:
        if failure.kind != "connect":
            return fault
        remedy = f"is Ollama running at {self.url}? Start it with `ollama serve`"
        return replace(fault, message=f"{fault.message}; {remedy}")


def _loaded(wire_name: str, running: Any) -> Mapping[str, Any] | None:
    """The entry of a model in the answer of `/api/ps`; a name without a tag means `latest`."""
    entries = running.get("models") if isinstance(running, dict) else None
    tagged = wire_name if ":" in wire_name.rpartition("/")[2] else f"{wire_name}:latest"
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and tagged in (entry.get("name"), entry.get("model")):
            return entry
    return None


def _remedy_for_missing(said: str, url: str) -> str:
    name = re.search(r"""model ["'\\]*([\w./:-]{1,100}?)["'\\]* not found""", said)
    return f"run `ollama pull {name[1]}`" if name else f"is it Ollama that answers at {url}?"


def _by_message(said: str, fault: Fault) -> Fault:
    if _TOO_LONG.search(said):
        return replace(fault, kind="too_large")
    if _NOT_FINITE.search(said):
        # The 8B in fp16 does this to texts that begin with "import" (QwenLM/Qwen3-Embedding#164).
        return replace(fault, kind="bad_vector")
    if _NO_EMBEDDINGS.search(said):
        return replace(fault, kind="bad_offer")
    return fault


@hookimpl
def register_providers(register: Callable[..., None]) -> None:
    register(Ollama, offers=_catalogue.offers_of("ollama"))
