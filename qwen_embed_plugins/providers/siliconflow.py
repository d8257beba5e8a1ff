"""SiliconFlow, in China (.cn) and abroad (.com): two sites, two accounts, two keys."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from qwen_embed_plugins.hookspecs import hookimpl
from qwen_embed_plugins.providers import _catalogue
from qwen_embed_plugins.providers._codes import Meaning, meant_by
from qwen_embed_plugins.providers._openai_service import OpenAIService
from qwen_embed_plugins.providers._refusals import Refusal
from qwen_embed_plugins.types import Fault

# Seen in answers to users: 20012 YILING0013/AI_NovelGenerator#23, 30001 in many clients' tests,
# 30011 FoundationAgents/OpenManus#438 (the model wants paid credit, others take granted one).
_MEANINGS = (
    Meaning("20012", "bad_offer"),
    Meaning("30001", "quota_spent", "account"),
    Meaning("30011", "quota_spent"),
)

# The message names the limit: "Details: RPD limit reached". Those of a day are over for the day.
# Each model has limits of its own (docs.siliconflow.cn, rate limits, read 2026-11).
_OF_A_DAY = re.compile(r"(?i)\b(RPD|TPD) limit reached")


class SiliconFlow(OpenAIService):
    """The Chinese site."""

    name = "siliconflow"
    base_url = "https://api.siliconflow.cn/v1"
    api_key_env = "SILICONFLOW_API_KEY"

    def refine(self, fault: Fault, status: int, refusal: Refusal) -> Fault:
        meant = meant_by((refusal.code,), _MEANINGS, fault)
        if meant is not fault:
            return meant
        if status == 403 and fault.kind == "bad_key":
            # A right key without right to this model, most often for want of a verified name
            # (docs.siliconflow.cn, error codes, read 2026-11).
            return replace(fault, kind="bad_offer", scope="offer")
        if status == 429 and _OF_A_DAY.search(refusal.message):
            return replace(fault, kind="quota_spent")
        return fault


class SiliconFlowAbroad(SiliconFlow):
    """The international site, whose documentation knows no base64."""

    name = "siliconflow-com"
    base_url = "https://api.siliconflow.com/v1"
    api_key_env = "SILICONFLOW_COM_API_KEY"
    encoding = "float"


@hookimpl
def register_providers(register: Callable[..., None]) -> None:
    for provider in (SiliconFlow, SiliconFlowAbroad):
        register(provider, offers=_catalogue.offers_of(provider.name))
