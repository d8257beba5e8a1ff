"""The services and servers that speak OpenAI's wire format keep the contract of plugins, against a
server that insists on what the service insists on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from qwen_embed_plugins.providers.deepinfra import DeepInfra
from qwen_embed_plugins.providers.fireworks import Fireworks
from qwen_embed_plugins.providers.infinity import Infinity
from qwen_embed_plugins.providers.llama_cpp import LlamaCpp
from qwen_embed_plugins.providers.lm_studio import LMStudio
from qwen_embed_plugins.providers.nebius import Nebius
from qwen_embed_plugins.providers.novita import Novita
from qwen_embed_plugins.providers.openai import OpenAI
from qwen_embed_plugins.providers.openrouter import OpenRouter
from qwen_embed_plugins.providers.scaleway import Scaleway
from qwen_embed_plugins.providers.siliconflow import SiliconFlow, SiliconFlowAbroad
from qwen_embed_plugins.providers.vllm import VLLM
from qwen_embed_plugins.testing import Behaviour, ProviderContract
from qwen_embed_plugins.testing.contract import KEY
from qwen_embed_plugins.types import WireRequest, WireResponse
from tests.services import services


class ServiceContract(ProviderContract):
    def serve(self, request: WireRequest, behaviour: Behaviour) -> WireResponse:
        strict = services()[self.provider.name].simulated()
        wanted = {
            name: getattr(behaviour, name) for name in ("order", "refuse_texts_with", "refusal")
        }
        if behaviour.encodings != "both":
            wanted["encodings"] = behaviour.encodings
        return super().serve(request, replace(strict, key=KEY, **wanted))


class TestDeepInfra(ServiceContract):
    provider = DeepInfra


class TestSiliconFlow(ServiceContract):
    provider = SiliconFlow


class TestSiliconFlowAbroad(ServiceContract):
    provider = SiliconFlowAbroad


class TestScaleway(ServiceContract):
    provider = Scaleway


class TestScalewayProject(ServiceContract):
    provider = Scaleway
    options: ClassVar[dict[str, Any]] = {"project_id": "7a1f4e2c-0000-4000-8000-000000000000"}


class TestFireworks(ServiceContract):
    provider = Fireworks


class TestOpenRouter(ServiceContract):
    provider = OpenRouter


class TestOpenRouterWithOptions(ServiceContract):
    provider = OpenRouter
    options: ClassVar[dict[str, Any]] = {
        "upstream": "deepinfra",
        "allow_fallbacks": True,
        "quantizations": ["bf16"],
        "data_collection": "deny",
    }


class TestNebius(ServiceContract):
    provider = Nebius


class TestNovita(ServiceContract):
    provider = Novita


class TestOpenAI(ServiceContract):
    provider = OpenAI


class TestVLLM(ServiceContract):
    provider = VLLM


class TestLlamaCpp(ServiceContract):
    provider = LlamaCpp


class TestInfinity(ServiceContract):
    provider = Infinity
    base_url = "http://127.0.0.1:7997"


class TestLMStudio(ServiceContract):
    provider = LMStudio
