"""Keys and passwords stay out of dumps, messages, `repr` and the state; broken set-ups are said."""

from __future__ import annotations

import base64
import copy
import logging
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.load import dumps
from pydantic import SecretStr, ValidationError

from qwen_embed_plugins import (
    ConfigurationError,
    DatabaseError,
    Embedder,
    NoOfferLeft,
    Settings,
)
from qwen_embed_plugins.errors import without_secrets
from qwen_embed_plugins.langchain import QwenEmbeddings, QwenRetriever
from qwen_embed_plugins.plugins import load_plugins
from qwen_embed_plugins.setup import settings_from
from qwen_embed_plugins.testing import Behaviour, SimulatedServer

SECRET = "planted-hunter2"


def test_dumps_of_embeddings_hold_neither_keys_nor_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SOMETHING_ELSE", SECRET)
    keys = {"ollama": SECRET}
    for given in (Settings.load(api_keys=keys), {"api_keys": keys}):
        embeddings = QwenEmbeddings(settings=given)
        dumps = (repr(embeddings), str(embeddings.model_dump()), embeddings.model_dump_json())
        assert not any(SECRET in dump for dump in dumps)


def test_names_of_models_and_offers_are_no_keys() -> None:
    registry = load_plugins(found=())
    offers = [offer for provider in registry.providers.values() for offer in provider.offers]
    names = {*registry.models, *registry.providers, *(offer.wire_name for offer in offers)}
    assert {name for name in names if without_secrets(name) != name} == set()


def test_a_mistaken_argument_is_not_quoted() -> None:
    with pytest.raises(ValidationError) as caught:
        QwenEmbeddings(api_key=SECRET)  # type: ignore[call-arg]
    assert SECRET not in str(caught.value)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("wire", ["ollama", "openai-compatible"])
def test_a_password_inside_an_address_shows_nowhere(wire: str) -> None:
    with SimulatedServer() as server:
        port = server.url.rpartition(":")[2]
    table = {"kind": wire, "base_url": f"http://user:{SECRET}@127.0.0.1:{port}"}
    settings = Settings.load(providers={"mine": table}, use=["mine"])
    embedder = Embedder(settings)
    with pytest.raises(NoOfferLeft) as caught:
        embedder.embed(["a"])
    [offer] = embedder._setup.catalogue.offers
    shown = (caught.value, settings, embedder, offer, offer.endpoint, offer.provider.config)
    assert not any(SECRET in f"{value!s} {value!r}" for value in shown)


@pytest.mark.parametrize("wire", ["ollama", "openai-compatible"])
def test_a_password_inside_an_address_is_sent_and_not_logged(
    wire: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with SimulatedServer() as server:
        base_url = server.url.replace("//", f"//user:{SECRET}@")
        settings = Settings.load(providers={"mine": {"kind": wire, "base_url": base_url}})
        with Embedder(settings, use=["mine"]) as embedder:
            embedder.embed(["a"])
        [sent] = [request.headers["authorization"] for request in server.requests]
    assert base64.b64decode(sent.removeprefix("Basic ")).decode() == f"user:{SECRET}"
    assert "send_request" in caplog.text  # of the connection, at least
    assert SECRET not in caplog.text


def test_a_wrong_address_is_refused_without_its_password() -> None:
    for address in (f"htp://u:{SECRET}@host", f"http://u:{SECRET}@host:port"):
        table = {"kind": "openai-compatible", "base_url": address}
        with pytest.raises(ConfigurationError, match="expected an address") as caught:
            Settings.load(providers={"mine": table})
        assert SECRET not in str(caught.value)


def test_a_key_in_place_of_its_variables_name_is_not_repeated() -> None:
    key = "q7Zk2LxP9vTnB4sWf8Rj"
    with pytest.raises(ConfigurationError) as caught:
        Embedder(Settings.load(providers={"ollama": {"api_key_env": key}}))
    assert key not in str(caught.value)


def shows(settings: Settings) -> str:
    return f"{settings!r} {settings!s} {settings.explain()} {settings.state_place()!r}"


@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
def test_a_password_of_the_state_shows_nowhere(
    scheme: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with SimulatedServer() as server:
        port = server.url.rpartition(":")[2]
    address = f"{scheme}://app:{SECRET}@127.0.0.1:{port}/x?sslpassword={SECRET}"
    monkeypatch.setenv("MY_STATE", address)
    for given in ({"state": address}, {"state_env": "MY_STATE"}):
        settings = settings_from(given, {})
        assert SECRET not in shows(settings)
        embeddings = QwenEmbeddings(settings=given)
        assert SECRET not in f"{embeddings!r} {embeddings.model_dump()}"
        with pytest.raises(
            ConfigurationError, match=rf"postgresql://app@127.0.0.1:{port}/x: "
        ) as e:
            Embedder(settings).embed(["a"])
        assert SECRET not in "".join(traceback.format_exception(e.value))
        assert "\n" not in str(e.value)
    assert SECRET not in caplog.text
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize(
    "address",
    [
        f"postgresql://app:{SECRET}/a@db/x",
        f"postgresql://app:12/{SECRET}@db/x",
        f"postgresql://app:1?{SECRET}@db/x",
        f"postgresql://app:1#{SECRET}@db/x",
        f"postgresql://app:{SECRET}@b@db/x",
        f"postgresql://app:{SECRET} b@db/x",
        f"postgresql+psycopg://app:{SECRET}@db/x",
        f"postgres:/app:{SECRET}@db/x",
        f"mysql://app:{SECRET}@db/x",
    ],
)
def test_a_mangled_address_of_the_state_is_refused_unseen(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_STATE", address)
    with pytest.raises(ConfigurationError, match=r"state.*expected a file's path, or") as caught:
        Settings.load(state=address)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(ConfigurationError, match="MY_STATE: expected a file's path, or") as caught:
        Settings.load(state_env="MY_STATE").state_place()
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_an_address_that_libpq_cannot_read_is_not_quoted() -> None:
    address = f"postgresql://app:{SECRET}%zz@db/x"
    with pytest.raises(ConfigurationError, match="cannot be read") as caught:
        Embedder(state=address).embed(["a"])
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("value", ["http://[::1", "::1]:5"])
def test_a_mangled_ollama_host_is_a_line_and_no_traceback(value: str) -> None:
    with pytest.raises(NoOfferLeft, match="ollama: cannot be set up"):
        Embedder(Settings.load(environ={"OLLAMA_HOST": value})).embed(["a"])
    with pytest.raises(ConfigurationError, match=r"providers\.ollama"):
        Embedder(Settings.load(environ={"OLLAMA_HOST": value}, use=["ollama"]))


def test_a_provider_that_cannot_be_made_stops_only_who_names_it(
    made: Callable[..., Embedder],
) -> None:
    def fail(self: Any, config: Any) -> None:
        raise RuntimeError("its SDK is missing")

    body = {"__init__": fail, "needs_naming": False}
    embedder = made(settings={"use": None}, **body)
    assert "its SDK is missing" in embedder._setup.catalogue.left_out["made"]
    with pytest.raises(ConfigurationError, match="its SDK is missing"):
        made(**body)


def unpickled(embeddings: QwenEmbeddings) -> QwenEmbeddings:
    pickled = pickle.dumps(embeddings)
    assert SECRET.encode() not in pickled
    twin: QwenEmbeddings = pickle.loads(pickled)  # noqa: S301 (our own)
    return twin


def test_embeddings_may_be_copied_with_their_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    with SimulatedServer() as server:
        monkeypatch.setenv("OLLAMA_HOST", server.url)
        embeddings = QwenEmbeddings(dimensions=64, api_keys={"ollama": SecretStr(SECRET)})
        for twin in (copy.copy(embeddings), copy.deepcopy(embeddings)):
            assert twin.embed_query("a") == embeddings.embed_query("a")
            assert twin.model_dump() == embeddings.model_dump()


def test_a_pickle_of_embeddings_holds_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    with SimulatedServer() as server:
        monkeypatch.setenv("OLLAMA_HOST", server.url)
        embeddings = QwenEmbeddings(dimensions=64, api_keys={"ollama": SecretStr(SECRET)})
        twin = unpickled(embeddings)
        assert twin.embed_query("a") == embeddings.embed_query("a")
        assert twin.api_keys == {}
        assert {**twin.model_dump(), "api_keys": None} == {
            **embeddings.model_dump(),
            "api_keys": None,
        }


@pytest.mark.parametrize("ready", [True, False], ids=["Settings", "mapping"])
def test_keys_are_found_anew_where_a_pickle_is_read(
    ready: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MY_KEY", SECRET)
    file = tmp_path / "keys.env"
    file.write_text(f"MY_OTHER_KEY={SECRET}", "utf-8")
    with SimulatedServer() as server:
        base = {"kind": "openai-compatible", "base_url": f"{server.url}/v1"}
        tables = {
            "first": {**base, "api_key_env": "MY_KEY"},
            "second": {**base, "api_key_env": "MY_OTHER_KEY"},
        }
        given: Any = {"providers": tables, "env_file": str(file), "api_keys": {"deepinfra": SECRET}}
        if ready:
            given = Settings.load(None, **given)
        twins = {name: unpickled(QwenEmbeddings(settings=given, use=[name])) for name in tables}
        monkeypatch.setenv("MY_KEY", "of-the-other-machine")
        file.write_text("MY_OTHER_KEY=of-its-file", "utf-8")
        for name, key in (("first", "of-the-other-machine"), ("second", "of-its-file")):
            unpickled(twins[name]).embed_query("a")
            assert server.requests[-1].headers["authorization"] == f"Bearer {key}"


@pytest.mark.parametrize(
    "given",
    [
        {"state": f"postgresql://app:{SECRET}@db/x"},
        {"providers": {"ollama": {"proxy": f"http://me:{SECRET}@127.0.0.1:9"}}},
        {"providers": {"ollama": {"base_url": f"http://me:{SECRET}@127.0.0.1:9"}}},
    ],
    ids=["state", "proxy", "base_url"],
)
def test_an_address_with_a_password_is_not_pickled(given: dict[str, Any]) -> None:
    for settings in (given, Settings.load(None, **given)):
        embeddings = QwenEmbeddings(settings=settings)
        with pytest.raises(ConfigurationError, match="an address with a password") as caught:
            pickle.dumps(embeddings)
        assert SECRET not in str(caught.value)


def test_dumps_and_pickles_of_a_retriever_hold_no_password() -> None:
    address = f"postgresql://app:{SECRET}@127.0.0.1:9/x"
    for dsn in (address, SecretStr(address)):
        retriever = QwenRetriever(vectorizer="docs", dsn=dsn)
        shown = (repr(retriever), str(retriever), dumps(retriever), retriever.model_dump_json())
        assert SECRET not in f"{shown} {retriever.model_dump()}"
        with pytest.raises(ConfigurationError, match="a pickle would carry"):
            pickle.dumps(retriever)
    for unreadable in (f"postgresql://app:{SECRET}%zz@db/x", f"password={SECRET} host"):
        with pytest.raises(ConfigurationError, match="a pickle would carry"):
            pickle.dumps(QwenRetriever(vectorizer="docs", dsn=SecretStr(unreadable)))
    with pytest.raises(ValidationError) as caught:
        QwenRetriever(vectorizer="docs", addres=address)  # type: ignore[call-arg]
    assert SECRET not in str(caught.value)


def test_a_failed_search_shows_no_password() -> None:
    with SimulatedServer() as server:  # no Postgres, and gone in a moment
        port = server.url.rpartition(":")[2]
    dsn = SecretStr(f"postgresql://app:{SECRET}@127.0.0.1:{port}/x")
    with pytest.raises(DatabaseError, match="Start the server") as caught:
        QwenRetriever(vectorizer="docs", dsn=dsn).invoke("a")
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("more", "named"),
    [({}, "api_key_env in [providers.mine]"), ({"api_key_env": "MY_KEY"}, "valid key into MY_KEY")],
)
def test_a_refused_key_is_answered_with_the_name_of_its_variable(
    monkeypatch: pytest.MonkeyPatch, more: dict[str, str], named: str
) -> None:
    monkeypatch.setenv("MY_KEY", "a-wrong-one-0123456789")
    with SimulatedServer(Behaviour(key="right")) as server:
        table = {"kind": "openai-compatible", "base_url": f"{server.url}/v1", **more}
        with (
            Embedder({"use": ["mine"], "providers": {"mine": table}}) as embedder,
            pytest.raises(NoOfferLeft) as caught,
        ):
            embedder.embed(["a"])
    assert named in str(caught.value)
    assert "a-wrong-one" not in str(caught.value)
