"""OpenAI's `/embeddings`, wherever its path begins."""

from __future__ import annotations

from typing import Any

import orjson

from qwen_embed_plugins.testing.behaviour import Behaviour, Reply
from qwen_embed_plugins.testing.dialects._dialect import Dialect, Models, RecordedRequest, Rows


class OpenAIDialect(Dialect):
    """Rows with an index, as base64 or as numbers, and a `usage`."""

    name = "openai"

    def belongs(self, path: str) -> bool:
        return True  # what no other format claims

    def embeds(self, path: str) -> bool:
        return path.endswith("/embeddings")

    def answer(self, request: RecordedRequest, rows: Rows, tokens: int | None, model: str) -> Reply:
        body: dict[str, Any] = {"object": "list", "data": listed(rows), "model": model}
        if tokens is not None:
            body["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens}
        return Reply(body=orjson.dumps(body))

    def error(self, reply: Reply) -> bytes:
        error = {"message": reply.message, "type": reply.type, "param": None, "code": reply.code}
        return orjson.dumps({"error": error})

    def about(self, request: RecordedRequest, behaviour: Behaviour, models: Models) -> Reply | None:
        if not request.path.endswith("/models"):
            return None
        data = [{"id": name, "object": "model"} for name in models.names()]
        return Reply(body=orjson.dumps({"object": "list", "data": data}))


def listed(rows: Rows) -> list[dict[str, Any]]:
    """The rows as OpenAI lists them; many formats write theirs so."""
    return [
        {"object": "embedding"}
        | ({} if index is None else {"index": index})
        | {"embedding": orjson.Fragment(row)}
        for index, row in rows
    ]
