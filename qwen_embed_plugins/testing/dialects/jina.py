"""Jina AI's `/embeddings`: OpenAI's rows, a task for each request, codes beside errors."""

from __future__ import annotations

import orjson

from qwen_embed_plugins.testing.behaviour import Behaviour, Reply
from qwen_embed_plugins.testing.dialects._dialect import RecordedRequest, Wish, unknown_field
from qwen_embed_plugins.testing.dialects.openai import OpenAIDialect

_KNOWN = {
    "model",
    "input",
    "task",
    "dimensions",
    "embedding_type",
    "late_chunking",
    "normalized",
    "truncate",
}
_TASKS = {
    "retrieval.query",
    "retrieval.passage",
    "text-matching",
    "classification",
    "separation",
}


class JinaDialect(OpenAIDialect):
    """Refuses long texts unless told to cut them. Its path is OpenAI's, so it is to be named."""

    name = "jina"

    def belongs(self, path: str) -> bool:
        return False

    def wish(self, request: RecordedRequest) -> Wish:
        return Wish(request.body.get("dimensions"), request.body.get("embedding_type") == "base64")

    def refused(self, request: RecordedRequest) -> Reply | None:
        extra = unknown_field(request.body, _KNOWN)
        if extra is not None:
            return Reply(422, f"Validation error: '{extra}': Extra inputs are not permitted")
        if request.body.get("task") not in _TASKS:
            return Reply(422, "Validation error: 'task' is none of those that there are")
        return None

    def cuts(self, request: RecordedRequest, behaviour: Behaviour) -> bool:
        return bool(request.body.get("truncate"))

    def too_long(self, context_tokens: int) -> Reply:
        message = f"Input text exceeds the model's maximum of {context_tokens} tokens."
        return Reply(400, message, code="INPUT_TOKEN_LIMIT_EXCEEDED")

    def error(self, reply: Reply) -> bytes:
        body = {"detail": reply.message, "code": reply.code or "", "request_id": "r"}
        return orjson.dumps(body)
