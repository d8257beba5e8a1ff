"""Voyage AI: OpenAI's answers, a body of its own."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from qwen_embed_plugins.hookspecs import hookimpl
from qwen_embed_plugins.providers import _catalogue
from qwen_embed_plugins.providers._openai_service import OpenAIService
from qwen_embed_plugins.providers._refusals import Refusal
from qwen_embed_plugins.types import Batch, Fault

_TOO_LONG = re.compile(r"(?i)example at index (\d{1,6}) in your batch has too many tokens")
_TOO_MANY = re.compile(r"(?i)batch size limit is (\d{1,6})")
_TOO_MANY_TOKENS = re.compile(r"(?i)max allowed tokens per submitted batch")
_UNKNOWN_ARGUMENT = re.compile(r"(?i)^argument '[a-z_]{1,40}' is not supported")


class Voyage(OpenAIService):
    """`input_type` lets the server put its own prompts before queries and documents. Keys that
    MongoDB Atlas gave out (`al-…`) belong to another host (voyage-ai/voyageai-python:
    voyageai/util.py, read 2026-11)."""

    name = "voyage"
    base_url = "https://api.voyageai.com/v1"
    api_key_env = "VOYAGE_API_KEY"
    adds_instruction = True
    never_cuts = True

    @property
    def url(self) -> str:
        from_atlas = (self.config.api_key or "").startswith("al-")
        if from_atlas and self.config.base_url in (None, self.base_url):
            return "https://ai.mongodb.com/v1"
        return super().url

    def body(self, batch: Batch) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": batch.wire_name,
            "input": list(batch.texts),
            "input_type": batch.role,
            "truncation": False,
        }
        if batch.encoding == "base64":  # numbers are asked for by saying nothing
            body["encoding_format"] = "base64"
        if batch.dimensions is not None:
            body["output_dimension"] = batch.dimensions
        return body

    def refine(self, fault: Fault, status: int, refusal: Refusal) -> Fault:
        """Its refusals have words only, and 400 for whatever is wrong with a request."""
        if status != 400:
            return fault
        if found := _TOO_LONG.search(refusal.message):
            return replace(fault, kind="too_large", limit=None, text_index=int(found[1]))
        if found := _TOO_MANY.search(refusal.message):
            return replace(fault, kind="too_large", limit=int(found[1]))
        if _TOO_MANY_TOKENS.search(refusal.message):
            return replace(fault, kind="too_large", limit=None)
        if _UNKNOWN_ARGUMENT.search(refusal.message):
            return replace(fault, kind="bad_offer")
        return fault


@hookimpl
def register_providers(register: Callable[..., None]) -> None:
    register(Voyage, offers=_catalogue.offers_of("voyage"))
