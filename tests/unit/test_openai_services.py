"""What each service that speaks OpenAI's wire format is asked, and where."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import orjson
import pytest

from qwen_embed_plugins.catalogue import build_catalogue
from qwen_embed_plugins.errors import ConfigurationError
from qwen_embed_plugins.models import QWEN3_MODELS
from qwen_embed_plugins.plugins import load_plugins
from qwen_embed_plugins.provider import Provider, ProviderConfig
from qwen_embed_plugins.providers.deepinfra import DeepInfra
from qwen_embed_plugins.providers.fireworks import Fireworks
from qwen_embed_plugins.providers.openrouter import OpenRouter
from qwen_embed_plugins.providers.scaleway import Scaleway
from qwen_embed_plugins.providers.siliconflow import SiliconFlow, SiliconFlowAbroad
from qwen_embed_plugins.settings import Settings
from qwen_embed_plugins.types import Batch, WireResponse
from tests.services import http_providers

TEXTS = ("a", "b")
PINNED = {"only": ["nebius"], "allow_fallbacks": False, "require_parameters": True}


def made(kind: type[Provider], base_url: str | None = None, **options: Any) -> Provider:
    return kind(ProviderConfig(kind.name, base_url or kind.base_url, "a-key", options))


def body(provider: Provider, dimensions: int | None = None) -> Any:
    batch = Batch(
        TEXTS, "document", QWEN3_MODELS[0], "m", encoding=provider.encoding, dimensions=dimensions
    )
    return orjson.loads(provider.build_request(batch).content)


def url(provider: Provider) -> str:
    return provider.build_request(Batch(TEXTS, "document", QWEN3_MODELS[0], "m")).url


@pytest.mark.parametrize(
    ("kind", "own"),
    [
        (DeepInfra, {"encoding_format": "base64"}),
        (SiliconFlow, {"encoding_format": "base64"}),
        (SiliconFlowAbroad, {"encoding_format": "float"}),
        (Scaleway, {}),
        (Fireworks, {"normalize": True}),
        (OpenRouter, {"encoding_format": "float", "provider": PINNED}),
    ],
)
def test_bodies(kind: type[Provider], own: dict[str, Any]) -> None:
    common = {"model": "m", "input": ["a", "b"], **own}
    assert body(made(kind)) == common
    said = {} if kind is Scaleway else {"dimensions": 512}
    assert body(made(kind), dimensions=512) == {**common, **said}


def test_scaleway_bills_the_project_that_is_named() -> None:
    assert url(made(Scaleway)) == "https://api.scaleway.ai/v1/embeddings"
    project = made(Scaleway, project_id="7a1f-4e2c")
    assert url(project) == "https://api.scaleway.ai/7a1f-4e2c/v1/embeddings"
    elsewhere = made(Scaleway, "http://127.0.0.1:9/v1", project_id="7a1f-4e2c")
    assert url(elsewhere) == "http://127.0.0.1:9/v1/embeddings"
    for wrong in ("a/b", "my project", "https://api.scaleway.ai"):
        with pytest.raises(ConfigurationError, match="expected the project's ID"):
            made(Scaleway, project_id=wrong)


@pytest.mark.parametrize(
    ("options", "routing", "variant"),
    [
        ({}, PINNED, "nebius"),
        ({"upstream": "deepinfra"}, {**PINNED, "only": ["deepinfra"]}, "deepinfra"),
        (
            {"quantizations": ["bf16"], "data_collection": "deny"},
            {**PINNED, "quantizations": ["bf16"], "data_collection": "deny"},
            "nebius bf16",
        ),
        (
            {"allow_fallbacks": True},
            {"order": ["nebius"], "allow_fallbacks": True, "require_parameters": True},
            "any upstream",
        ),
    ],
)
def test_openrouter_pins_one_upstream(
    options: dict[str, Any], routing: dict[str, Any], variant: str
) -> None:
    provider = made(OpenRouter, **options)
    assert body(provider)["provider"] == routing
    assert provider.variant == variant


@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        ({"prompt_tokens": 5, "cost": 0.00014}, Decimal("0.00014")),
        ({"prompt_tokens": 5, "cost": 0}, None),
        ({"prompt_tokens": 5, "cost": -1}, None),
        ({"prompt_tokens": 5, "cost": "much"}, None),
        ({"prompt_tokens": 5, "cost": 1e300}, None),
        ({"prompt_tokens": 5}, None),
    ],
)
def test_openrouter_tells_what_it_took(usage: dict[str, Any], cost: Decimal | None) -> None:
    answer = orjson.dumps({"data": [{"index": 0, "embedding": [1.0]}], "usage": usage})
    response = WireResponse(200, answer)
    assert made(OpenRouter).parse_response(response).cost == cost
    assert made(DeepInfra).parse_response(response).cost is None


def test_openrouters_options_are_settings() -> None:
    table = {"allow_fallbacks": True, "wire_name": "m", "price_per_million": "0.01"}
    settings = Settings.load(
        environ={"OPENROUTER_API_KEY": "k"}, providers={"openrouter": table}, use=["openrouter"]
    )
    [offer] = build_catalogue(settings, load_plugins(found=())).offers
    assert offer.endpoint.startswith("https://openrouter.ai/api/v1 m ")
    assert offer.endpoint.endswith(" any upstream")
    wrong = {"openrouter": {"allow_fallbacks": "yes"}}
    with pytest.raises(ConfigurationError, match="allow_fallbacks = 'yes': expected bool"):
        build_catalogue(Settings.load(environ={}, providers=wrong), load_plugins(found=()))


@pytest.mark.parametrize(
    ("environ", "key"),
    [
        ({"DEEPINFRA_API_KEY": "c"}, "c"),
        ({"DEEPINFRA_API_KEY": "c", "DEEPINFRA_API_TOKEN": "b"}, "b"),
        ({"DEEPINFRA_API_KEY": "c", "DEEPINFRA_API_TOKEN": "b", "DEEPINFRA_TOKEN": "a"}, "a"),
    ],
)
def test_deepinfras_key_has_three_names(environ: dict[str, str], key: str) -> None:
    table = {"wire_name": "m", "price_per_million": "0.05"}
    settings = Settings.load(environ=environ, providers={"deepinfra": table}, use=["deepinfra"])
    [offer] = build_catalogue(settings, load_plugins(found=())).offers
    assert offer.provider.config.api_key == key


@pytest.mark.parametrize("kind", ["vllm", "llama-cpp", "infinity", "lm-studio"])
def test_servers_of_ones_own_serve_any_model_where_settings_say(kind: str) -> None:
    registry = load_plugins(found=())
    unnamed = build_catalogue(Settings.load(environ={}), registry)
    assert unnamed.left_out[kind] == "serves only when named"
    with pytest.raises(ConfigurationError, match="base_url is missing"):
        build_catalogue(Settings.load(environ={}, use=[kind]), registry)
    table = {"kind": kind, "base_url": "http://127.0.0.1:9/v1"}
    settings = Settings.load(environ={}, providers={"mine": table}, use=["mine"])
    [offer] = build_catalogue(settings, registry).offers
    assert offer.offer.wire_name == "Qwen/Qwen3-Embedding-8B"


def test_only_those_never_cut_who_are_known_to_refuse() -> None:
    never = {name for name, provider in http_providers().items() if provider.never_cuts}
    assert never & {"deepinfra", "siliconflow", "scaleway", "fireworks", "openrouter"} == set()
    assert {"openai", "vllm", "llama-cpp"} <= never


def test_each_service_has_its_key_in_a_variable_of_its_own() -> None:
    of_names = {
        name: (provider.api_key_env, *provider.other_key_envs)
        for name, provider in http_providers().items()
        if provider.base_url and not provider.found_without_key
    }
    assert all(names[0] for names in of_names.values())
    variables = [variable for names in of_names.values() for variable in names]
    assert len(set(variables)) == len(variables)
