"""Cloudflare Workers AI's native route: the model in the path, the texts named by their role."""

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

_QWEN3 = {"queries", "instruction", "documents", "text"}
_OTHERS = {"text", "truncate_inputs"}
_TEXTS = ("queries", "documents", "text")


class CloudflareDialect(Dialect):
    """Rows without indexes or a count. There is one length, and nothing to ask another with."""

    name = "cloudflare"
    has_indexes = False

    def belongs(self, path: str) -> bool:
        return "/ai/run/" in path

    def embeds(self, path: str) -> bool:
        return self.belongs(path)

    def texts(self, body: Any) -> tuple[str, ...]:
        return next(filter(None, (strings_of(member(body, name)) for name in _TEXTS)), ())

    def model(self, request: RecordedRequest) -> str | None:
        return request.path.partition("/ai/run/")[2] or None

    def wish(self, request: RecordedRequest) -> Wish:
        return Wish()

    def refused(self, request: RecordedRequest) -> Reply | None:
        known = _QWEN3 if "/qwen3-embedding" in request.path else _OTHERS
        extra = unknown_field(request.body, known)
        both = len([name for name in _TEXTS if member(request.body, name)]) > 1
        if extra is None and not both:
            return None
        return Reply(400, f"AiError: Bad input: Error: oneOf at '/' not met, {extra}", code=5006)

    def cuts(self, request: RecordedRequest, behaviour: Behaviour) -> bool:
        return bool(member(request.body, "truncate_inputs"))

    def answer(self, request: RecordedRequest, rows: Rows, tokens: int | None, model: str) -> Reply:
        data = b"[" + b",".join(row for _, row in rows) + b"]"
        result = {"data": orjson.Fragment(data), "shape": [len(rows), None]}
        body = {"result": result, "success": True, "errors": [], "messages": []}
        return Reply(body=orjson.dumps(body))

    def error(self, reply: Reply) -> bytes:
        errors = [{"code": reply.code, "message": reply.message}]
        body = {"result": None, "success": False, "errors": errors, "messages": []}
        return orjson.dumps(body)
