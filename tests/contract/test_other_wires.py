"""The providers with a wire format of their own keep the contract of plugins."""

from __future__ import annotations

from typing import ClassVar

from qwen_embed_plugins.providers.cloudflare import Cloudflare
from qwen_embed_plugins.providers.dashscope import DashScopeBeijing, DashScopeSingapore
from qwen_embed_plugins.providers.gemini import Gemini
from qwen_embed_plugins.providers.jina import Jina
from qwen_embed_plugins.providers.tei import TEI
from qwen_embed_plugins.providers.voyage import Voyage
from qwen_embed_plugins.testing import ProviderContract


class TestDashScopeSingapore(ProviderContract):
    provider = DashScopeSingapore


class TestDashScopeBeijing(ProviderContract):
    provider = DashScopeBeijing


class TestDashScopeCompatible(ProviderContract):
    provider = DashScopeSingapore
    options: ClassVar[dict[str, str]] = {"route": "compatible"}


class TestTEI(ProviderContract):
    provider = TEI
    base_url = "http://127.0.0.1:9"


class TestCloudflare(ProviderContract):
    provider = Cloudflare
    wire_name = "@cf/qwen/qwen3-embedding-0.6b"
    options: ClassVar[dict[str, str]] = {"account_id": "0123456789abcdef0123456789abcdef"}


class TestCloudflareText(TestCloudflare):
    wire_name = "@cf/baai/bge-m3"


class TestGemini(ProviderContract):
    provider = Gemini


class TestVoyage(ProviderContract):
    provider = Voyage
    dialect = "voyage"


class TestJina(ProviderContract):
    provider = Jina
    dialect = "jina"
