"""Each error answer that a service documents, or was seen to give, and what follows from it.

The answers stand in `tests/services/<provider>.toml`, each with its source. Here they are given
over real HTTP to a router that has a second offer of the same account and a third elsewhere.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

import orjson
import pytest

from qwen_embed_plugins import Embedder, QwenEmbedError, Settings, hookimpl
from qwen_embed_plugins.choosing import Chooser
from qwen_embed_plugins.events import Event, OfferPaused
from qwen_embed_plugins.plugins import Registry, load_plugins
from qwen_embed_plugins.testing import RecordedRequest, Reply, SimulatedServer
from qwen_embed_plugins.types import EmbedResult, FaultKind
from tests.services import Service, http_providers, services

KEY = "planted Key/without+a-known.shape"
TEXT = "the text that is refused"
MODEL = "qwen3-embedding-0.6b"

WHAT_EVERYONE_HAS = {
    "wrong key": ("wrong key",),
    "unknown model": ("unknown model",),
    "rate limit": ("rate limit",),
    "size": ("too long text", "too many inputs"),
    "overload": ("overload",),
}
"""The least that each service's file must hold, by how the names of its errors begin."""

EXPECTED = {"kind", "scope", "retry_after_seconds", "text_index", "limit"}
KNOWN = EXPECTED | {"name", "status", "headers", "body", "json", "source"}


def documented() -> Iterator[Any]:
    for service in services().values():
        for error in service.errors:
            yield pytest.param(service, error, id=f"{service.name}-{error['name']}")


def reply_of(error: Mapping[str, Any]) -> Reply:
    body = orjson.dumps(error["json"]) if "json" in error else error.get("body", "").encode()
    return Reply(error["status"], body=body, headers=error.get("headers", {}))


def quoting_the_key(reply: Reply) -> Reply:
    """The same answer by a server that repeats the key in everything it says."""
    try:
        body = orjson.dumps(_with_key(orjson.loads(reply.body or b"")))
    except orjson.JSONDecodeError:
        body = (reply.body or b"") + KEY.encode()
    return Reply(reply.status, body=body, headers=reply.headers)


def _with_key(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _with_key(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_with_key(item) for item in value]
    return f"{value} {KEY}" if isinstance(value, str) else value


class Observer:
    """Hears what happens and notes it for the scene of the moment."""

    events: list[Event]

    @hookimpl
    def observe(self, event: Event) -> None:
        self.events.append(event)


@lru_cache(maxsize=1)
def loaded() -> tuple[Registry, Observer]:
    """The built-ins without what they say of prices and models: only their answers count here."""
    observer = Observer()
    registry = load_plugins(extra={"observer": observer}, found=(), disabled=())
    providers = registry.declared.providers
    providers.update({name: replace(item, offers=()) for name, item in providers.items()})
    return registry, observer


class Scene:
    """Three offers in this order, each with a server of its own: `first` gives the error to every
    request that holds the text, `second` is of the same account, `third` of another provider."""

    def __init__(self, service: Service, reply: Reply, stack: ExitStack) -> None:
        def refuse(request: RecordedRequest) -> Reply | None:
            return reply if TEXT in request.texts else None

        self.service = service
        self.events: list[Event] = []
        usual, dialect = service.simulated(key=KEY), service.dialect
        self.first = stack.enter_context(SimulatedServer(usual, dialect=dialect, respond=refuse))
        self.second = stack.enter_context(SimulatedServer(usual, dialect=dialect))
        self.third = stack.enter_context(SimulatedServer())

    def embedder(self, *use: str, trust: bool = False) -> Embedder:
        """Without trust the offers are introduced, and what is learnt is kept in the state."""
        tables: dict[str, dict[str, Any]] = {
            "first": self._table(self.first),
            "second": self._table(self.second),
            "third": {"kind": "openai-compatible", "base_url": f"{self.third.url}/v1"},
        }
        settings = Settings.load(
            model=MODEL,
            providers={name: {**table, "trust": trust} for name, table in tables.items()},
            use=list(use),
            api_keys=dict.fromkeys(use, KEY),
        )
        registry, observer = loaded()
        observer.events = self.events
        return Embedder(settings, registry=registry)

    def _table(self, server: SimulatedServer) -> dict[str, Any]:
        own_url = http_providers()[self.service.name].base_url or ""
        path = urlsplit(own_url).path if self.service.path is None else self.service.path
        return {
            "kind": self.service.name,
            "base_url": server.url + path,
            "wire_name": "Qwen/Qwen3-Embedding-0.6B",
            "account": "theirs",
            **self.service.options,
        }

    @property
    def paused(self) -> dict[str, FaultKind]:
        return {event.offer: event.kind for event in self.events if isinstance(event, OfferPaused)}


def was_asked(server: SimulatedServer) -> bool:
    return TEXT in server.texts_seen


@pytest.fixture
def scene() -> Iterator[Callable[[Service, Reply], Scene]]:
    with ExitStack() as stack:
        yield lambda service, reply: Scene(service, reply, stack)


@pytest.mark.parametrize(("service", "error"), list(documented()))
def test_each_means_what_its_file_says(
    scene: Callable[[Service, Reply], Scene], service: Service, error: Mapping[str, Any]
) -> None:
    played = scene(service, reply_of(error))
    with played.embedder("first", "second", "third", trust=True) as embedder:
        result = embedder.embed([TEXT])
    fault = next(attempt.fault for attempt in result.attempts if attempt.fault is not None)
    found = {name: getattr(fault, name) for name in EXPECTED}
    expected = {name: error.get(name) for name in EXPECTED}
    assert found == expected, fault.message
    _check_what_followed(played, result, error)


def _check_what_followed(played: Scene, result: EmbedResult, error: Mapping[str, Any]) -> None:
    """An account that is out is not asked again through its other offer; somebody else serves."""
    account_wide = error["scope"] == "account"
    assert was_asked(played.second) is not account_wide
    assert not result.errors
    assert result.offers == (f"{'third' if account_wide else 'second'}/{MODEL}",)
    about_texts = error["kind"] in ("bad_input", "too_large", "bad_vector")
    paused = "theirs" if account_wide else f"first/{MODEL}"
    assert played.paused == ({} if about_texts else {paused: error["kind"]})


@pytest.mark.parametrize(("service", "error"), list(documented()))
def test_a_key_that_the_answer_repeats_shows_nowhere(
    scene: Callable[[Service, Reply], Scene],
    service: Service,
    error: Mapping[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    isolated_settings: Path,
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(Chooser, "_patience", lambda self, pause: 0.0)  # an impatient caller
    played = scene(service, quoting_the_key(reply_of(error)))
    with played.embedder("first", "second", "third") as embedder:
        shown = [repr(embedder.embed([TEXT])), repr(embedder), repr(embedder.settings)]
    with played.embedder("first") as embedder, pytest.raises(QwenEmbedError) as caught:
        embedder.embed_documents([TEXT])
    raised = caught.value
    shown += [str(raised), repr(raised), repr(vars(raised)), *traceback.format_exception(raised)]
    shown += [repr(event) for event in played.events]
    shown += [f"{record.getMessage()} {vars(record)}" for record in caplog.records]
    kept = [path.read_bytes() for path in isolated_settings.rglob("*") if path.is_file()]
    assert kept, "no state file was written: nothing was looked into"
    assert not [text for text in shown if KEY in text]
    assert not [content for content in kept if KEY.encode() in content]
    assert was_asked(played.first)


@pytest.mark.parametrize("name", sorted(http_providers()))
def test_every_service_has_its_usual_errors(name: str) -> None:
    assert name in services(), f"tests/services/{name}.toml is missing"
    service = services()[name]
    missing = {
        wanted
        for wanted, beginnings in WHAT_EVERYONE_HAS.items()
        if not any(error["name"].startswith(beginnings) for error in service.errors)
    }
    assert missing == service.absent.keys(), "list what it has not under [absent], with the reason"


def test_every_file_belongs_to_a_provider_and_can_be_understood() -> None:
    assert services().keys() <= http_providers().keys()
    for service in services().values():
        names = [error["name"] for error in service.errors]
        assert len(set(names)) == len(names), f"{service.name}: {names}"
        for error in service.errors:
            where = f"{service.name}: {error['name']}"
            assert error.keys() <= KNOWN, f"{where}: {error.keys() - KNOWN}"
            assert error["kind"] in get_args(FaultKind), where
            assert error["source"], where
            assert "body" not in error or "json" not in error, where
