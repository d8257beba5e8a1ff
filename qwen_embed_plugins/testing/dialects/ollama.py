"""Ollama's native routes: `/api/embed` and those that tell which models there are."""

from __future__ import annotations

from typing import Any

import orjson

from qwen_embed_plugins.testing.behaviour import Behaviour, Reply
from qwen_embed_plugins.testing.dialects._dialect import (
    Dialect,
    Models,
    RecordedRequest,
    Rows,
    Wish,
    member,
)

_DIGEST = "64b933495768a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a"
_DETAILS = {"format": "gguf", "family": "qwen3", "quantization_level": "Q4_K_M"}


class OllamaDialect(Dialect):
    """A bare list of rows in the order of the texts; the request decides about long ones."""

    name = "ollama"
    has_indexes = False

    def belongs(self, path: str) -> bool:
        return path.startswith("/api/") and not path.startswith("/api/v1/")  # OpenRouter's

    def embeds(self, path: str) -> bool:
        return path == "/api/embed"

    def wish(self, request: RecordedRequest) -> Wish:
        return Wish(request.body.get("dimensions"))

    def cuts(self, request: RecordedRequest, behaviour: Behaviour) -> bool:
        return request.body.get("truncate", True) is not False

    def too_long(self, context_tokens: int) -> Reply:
        return Reply(400, "the input length exceeds the context length")

    def answer(self, request: RecordedRequest, rows: Rows, tokens: int | None, model: str) -> Reply:
        body: dict[str, Any] = {
            "model": model,
            "embeddings": [orjson.Fragment(row) for _, row in rows],
            "total_duration": 14143917,
            "load_duration": 1019500,
        }
        if tokens is not None:
            body["prompt_eval_count"] = tokens
        return Reply(body=orjson.dumps(body))

    def error(self, reply: Reply) -> bytes:
        return orjson.dumps({"error": reply.message})

    def about(self, request: RecordedRequest, behaviour: Behaviour, models: Models) -> Reply | None:
        if request.path == "/api/tags":
            listed: Any = {"models": [_entry(name) for name in models.names()]}
        elif request.path == "/api/ps":
            loaded = {"context_length": behaviour.context_tokens}
            listed = {"models": [{**_entry(name), **loaded} for name in models.names()]}
        elif request.path == "/api/version":
            listed = {"version": "0.33.0"}
        elif request.path == "/api/show":
            return _shown(request, models)
        else:
            return None
        return Reply(body=orjson.dumps(listed))


def _shown(request: RecordedRequest, models: Models) -> Reply:
    name = str(member(request.body, "model") or member(request.body, "name") or "")
    length = models.native_length(name)
    if length is None:
        return Reply(404, f"model '{name}' not found")
    known = {
        "general.architecture": "qwen3",
        "qwen3.context_length": 40960,
        "qwen3.embedding_length": length,
        "tokenizer.ggml.eos_token_id": 151643,
        "tokenizer.ggml.add_eos_token": True,
    }
    shown = {"details": _DETAILS, "model_info": known, "capabilities": ["embedding"]}
    return Reply(body=orjson.dumps(shown))


def _entry(name: str) -> dict[str, Any]:
    return {"name": name, "model": name, "digest": _DIGEST, "details": _DETAILS}
