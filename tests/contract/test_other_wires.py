"""The providers with a wire format of their own keep the contract of plugins."""

from __future__ import annotations

from typing import ClassVar

from qwen_embed_plugins.providers.dashscope import DashScopeBeijing, DashScopeSingapore
from qwen_embed_plugins.providers.tei import TEI
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
