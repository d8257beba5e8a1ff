"""The native route of text-embeddings-inference: no model, a bare list, tokens in a header."""

from __future__ import annotations

from typing import Any

import orjson

from qwen_embed_plugins.testing.behaviour import Behaviour, Reply
from qwen_embed_plugins.testing.dialects._dialect import (
    Dialect,
    RecordedRequest,
    Rows,
    Wish,
    member,
    strings_of,
    unknown_field,
)

_KNOWN = {"inputs", "truncate", "truncation_direction", "prompt_name", "normalize", "dimensions"}


class TEIDialect(Dialect):
    """The request decides about long texts. Whatever is asked for, the one model answers."""

    name = "tei"
    has_indexes = False

    def belongs(self, path: str) -> bool:
        return path.endswith("/embed")

    def embeds(self, path: str) -> bool:
        return self.belongs(path)

    def texts(self, body: Any) -> tuple[str, ...]:
        return strings_of(member(body, "inputs"))

    def model(self, request: RecordedRequest) -> str | None:
        return "Qwen/Qwen3-Embedding-0.6B"

    def wish(self, request: RecordedRequest) -> Wish:
        return Wish(request.body.get("dimensions"))

    def refused(self, request: RecordedRequest) -> Reply | None:
        extra = unknown_field(request.body, _KNOWN)
        return None if extra is None else Reply(422, f"unknown field `{extra}`", "Validation")

    def cuts(self, request: RecordedRequest, behaviour: Behaviour) -> bool:
        return request.body.get("truncate", True) is not False

    def too_long(self, context_tokens: int) -> Reply:
        message = f"`inputs` must have less than {context_tokens} tokens. Given: more"
        return Reply(413, f"Input validation error: {message}", "Validation")

    def answer(self, request: RecordedRequest, rows: Rows, tokens: int | None, model: str) -> Reply:
        headers = {} if tokens is None else {"x-compute-tokens": str(tokens)}
        return Reply(body=b"[" + b",".join(row for _, row in rows) + b"]", headers=headers)

    def error(self, reply: Reply) -> bytes:
        return orjson.dumps({"error": reply.message, "error_type": reply.type})
