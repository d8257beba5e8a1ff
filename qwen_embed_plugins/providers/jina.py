"""Jina AI: OpenAI's answers, a body of its own."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from qwen_embed_plugins.hookspecs import hookimpl
from qwen_embed_plugins.providers import _catalogue
from qwen_embed_plugins.providers._codes import Meaning, meant_by
from qwen_embed_plugins.providers._openai_service import OpenAIService
from qwen_embed_plugins.providers._refusals import Refusal
from qwen_embed_plugins.types import Batch, Fault

_TASKS = {"query": "retrieval.query", "document": "retrieval.passage"}

# What codes mean beyond their status (its OpenAPI description, tryAGI/Jina:src/libs/Jina/
# openapi.json, read 2026-11).
_MEANINGS = (
    Meaning("AUTHZ_(INSUFFICIENT_BALANCE|RESOURCE_LIMIT_EXCEEDED)", "quota_spent", "account"),
    Meaning("INPUT_TOKEN_LIMIT_EXCEEDED", "too_large"),
)
_TOO_MANY = re.compile(r"(?i)larger than the largest allowed size (\d{1,6})")


class Jina(OpenAIService):
    """`task` chooses the adapter that the model computes queries or documents with."""

    name = "jina"
    base_url = "https://api.jina.ai/v1"
    api_key_env = "JINA_API_KEY"
    adds_instruction = True
    never_cuts = True
    # What its base64 holds is not written down.
    encoding = "float"

    def body(self, batch: Batch) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": batch.wire_name,
            "input": list(batch.texts),
            "task": _TASKS[batch.role],
            "embedding_type": "float",
            "truncate": False,
        }
        return body if batch.dimensions is None else {**body, "dimensions": batch.dimensions}

    def refine(self, fault: Fault, status: int, refusal: Refusal) -> Fault:
        if found := _TOO_MANY.search(refusal.message):
            return replace(fault, kind="too_large", limit=int(found[1]))
        return meant_by((refusal.code,), _MEANINGS, fault)


@hookimpl
def register_providers(register: Callable[..., None]) -> None:
    register(Jina, offers=_catalogue.offers_of("jina"))
