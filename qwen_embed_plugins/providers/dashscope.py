"""DashScope (Alibaba Cloud Model Studio) in Singapore and in Beijing: two accounts, two keys.

The native route takes the role and the instruction of a query apart from its text and adds them on
the server. The OpenAI-compatible route (`route = "compatible"`) has no field for either
(help.aliyun.com, "OpenAI compatible - Embedding", read 2026-11): there queries go bare, as
documents do. How the closed model would want an instruction written into a text is not published,
and one in the wrong form would be another vector.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

from qwen_embed_plugins.errors import ConfigurationError, shown
from qwen_embed_plugins.hookspecs import hookimpl
from qwen_embed_plugins.provider import Provider, ProviderConfig
from qwen_embed_plugins.providers import _catalogue, _openai_wire
from qwen_embed_plugins.providers._codes import Meaning, meant_by
from qwen_embed_plugins.providers._refusals import fault_of, read_refusal
from qwen_embed_plugins.types import (
    Answer,
    Batch,
    Fault,
    TransportFailure,
    WireRequest,
    WireResponse,
)

NATIVE_PATH = "/api/v1/services/embeddings/text-embedding/text-embedding"
COMPATIBLE_PATH = "/compatible-mode/v1/embeddings"

# What codes mean beyond their status (alibabacloud.com/help/en/model-studio/error-code, read
# 2026-11).
_MEANINGS = (
    Meaning("(Pre|Post)paidBillOverdue|CommodityNotPurchased", "quota_spent", "account"),
    # "The free tier of the model": each model has its own.
    Meaning(r"AllocationQuota\.FreeTierOnly", "quota_spent"),
    Meaning(
        r"AccessDenied\.Unpurchased|Workspace\.AccessDenied|WorkSpaceNotFound", "bad_key", "account"
    ),
    # The key is good, this model is not for it.
    Meaning(r"access_?denied|(Model|Endpoint)\.AccessDenied", "bad_offer"),
    # Here this is the limit of tokens a minute, in OpenAI's words for an empty purse; it passes
    # within that minute.
    Meaning(r"Throttling\.AllocationQuota|insufficient_quota", "rate_limited"),
)
_FREE_QUOTA_SPENT = re.compile(r"(?i)^free allocated quota exceeded")
_TOO_LONG = re.compile(r"(?i)range of input length should be")


class DashScope(Provider):
    """What both regions share. `workspace` names a workspace with a host of its own; `route` is
    "native" or "compatible"."""

    adds_instruction = True
    encoding = "float"
    options: ClassVar[dict[str, type]] = {"workspace": str, "route": str}

    region: ClassVar[str]
    """As it stands in the hosts of workspaces."""

    def __init__(self, config: ProviderConfig) -> None:
        super().__init__(config)
        self.route = config.options.get("route", "native")
        if self.route not in ("native", "compatible"):
            raise ConfigurationError(
                f'route = {shown(self.route)}: expected "native" or "compatible"'
            )
        workspace = config.options.get("workspace", "")
        if workspace and not re.fullmatch(r"[A-Za-z0-9-]+", workspace):
            raise ConfigurationError(
                f"workspace = {shown(workspace)}: expected the workspace's ID as the console "
                "shows it (letters, digits and dashes), not its name or an address"
            )

    @property
    def url(self) -> str:
        workspace = self.config.options.get("workspace")
        if workspace and self.config.base_url in (None, self.base_url):
            return f"https://{workspace}.{self.region}.maas.aliyuncs.com"
        return super().url

    @property
    def variant(self) -> str:
        # The vectors of queries depend on it.
        return "" if self.route == "native" else self.route

    def build_request(self, batch: Batch) -> WireRequest:
        native = self.route == "native"
        body = native_body(batch) if native else compatible_body(batch)
        path = NATIVE_PATH if native else COMPATIBLE_PATH
        return _openai_wire.post_json(self.url + path, body, key=self.config.api_key)

    def parse_response(self, response: WireResponse) -> Answer:
        if self.route == "native":
            return parse_native(response, key=self.config.api_key)
        return _openai_wire.parse_answer(response, key=self.config.api_key, classify=self.classify)

    def classify(self, answer: WireResponse | TransportFailure) -> Fault:
        fault = fault_of(answer, key=self.config.api_key)
        return fault if isinstance(answer, TransportFailure) else _refined(fault, answer)


def native_body(batch: Batch) -> dict[str, Any]:
    """The native route's body: `dimension` in the singular, the instruction as `instruct`."""
    parameters: dict[str, Any] = {"text_type": batch.role, "output_type": "dense"}
    if batch.role == "query" and batch.instruction:
        parameters["instruct"] = batch.instruction
    if batch.dimensions is not None:
        parameters["dimension"] = batch.dimensions
    return {
        "model": batch.wire_name,
        "input": {"texts": list(batch.texts)},
        "parameters": parameters,
    }


def compatible_body(batch: Batch) -> dict[str, Any]:
    """OpenAI's body; `float` is the only encoding that the route knows."""
    return {**_openai_wire.request_body(batch), "encoding_format": "float"}


def parse_native(response: WireResponse, *, key: str | None = None) -> Answer:
    """The rows of the native route by their `text_index`. Raises `ProviderError`."""
    body = _openai_wire.load_json(response, key=key)
    output = body.get("output") if isinstance(body, dict) else None
    items = _openai_wire.rows_in(output.get("embeddings")) if isinstance(output, dict) else None
    if items is None:
        raise _openai_wire.no_rows("output.embeddings", response, key)
    return _openai_wire.answer_of(_openai_wire.in_order(items, "text_index"), body)


def _refined(fault: Fault, answer: WireResponse) -> Fault:
    refusal = read_refusal(answer)
    if _TOO_LONG.search(refusal.message) and answer.status == 400:
        return replace(fault, kind="too_large")
    if _FREE_QUOTA_SPENT.search(refusal.message):
        return replace(fault, kind="quota_spent", scope="offer")
    return meant_by((refusal.code, refusal.type), _MEANINGS, fault)


class DashScopeSingapore(DashScope):
    """The international site."""

    name = "dashscope-singapore"
    base_url = "https://dashscope-intl.aliyuncs.com"
    api_key_env = "DASHSCOPE_API_KEY"
    region = "ap-southeast-1"


class DashScopeBeijing(DashScope):
    """The mainland site. Its key has a variable of its own, since neither site knows the other's
    keys although both call theirs `DASHSCOPE_API_KEY`."""

    name = "dashscope-beijing"
    base_url = "https://dashscope.aliyuncs.com"
    api_key_env = "DASHSCOPE_CN_API_KEY"
    region = "cn-beijing"


@hookimpl
def register_providers(register: Callable[..., None]) -> None:
    for provider in (DashScopeSingapore, DashScopeBeijing):
        register(provider, offers=_catalogue.offers_of(provider.name))
