"""The Gemini API's `batchEmbedContents`: the model in the path, an item for each text."""

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
    unknown_field,
)

_ITEM = {"model", "content", "taskType", "title", "outputDimensionality"}
_STATUSES = {400: "INVALID_ARGUMENT", 403: "PERMISSION_DENIED", 404: "NOT_FOUND"}
_STATUSES |= {429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE"}


class GeminiDialect(Dialect):
    """Rows without indexes. A field that it does not know is refused, as protocol buffers do."""

    name = "gemini"
    has_indexes = False

    def belongs(self, path: str) -> bool:
        return path.endswith(":batchEmbedContents")

    def embeds(self, path: str) -> bool:
        return self.belongs(path)

    def texts(self, body: Any) -> tuple[str, ...]:
        return tuple("".join(_parts(item)) for item in _items(body))

    def model(self, request: RecordedRequest) -> str | None:
        return request.path.partition("/models/")[2].removesuffix(":batchEmbedContents") or None

    def wish(self, request: RecordedRequest) -> Wish:
        return Wish(member(_items(request.body)[0], "outputDimensionality"))

    def refused(self, request: RecordedRequest) -> Reply | None:
        named = f"models/{self.model(request)}"
        for place, item in enumerate(_items(request.body)):
            extra = unknown_field(item, _ITEM)
            if extra is not None:
                message = f"Unknown name \"{extra}\" at 'requests[{place}]': Cannot find field."
                return Reply(400, f"Invalid JSON payload received. {message}")
            if member(item, "model") != named:
                return Reply(400, "the model of each request must be that of the batch")
        return None

    def cuts(self, request: RecordedRequest, behaviour: Behaviour) -> bool:
        return behaviour.too_long == "cut"

    def too_long(self, context_tokens: int) -> Reply:
        said = f"exceeds the maximum number of tokens allowed ({context_tokens})."
        return Reply(400, f"The input token count {said}")

    def answer(self, request: RecordedRequest, rows: Rows, tokens: int | None, model: str) -> Reply:
        body: dict[str, Any] = {"embeddings": [{"values": orjson.Fragment(row)} for _, row in rows]}
        if tokens is not None:
            body["usageMetadata"] = {"promptTokenCount": tokens}
        return Reply(body=orjson.dumps(body))

    def error(self, reply: Reply) -> bytes:
        status = _STATUSES.get(reply.status, "UNKNOWN")
        error: dict[str, Any] = {
            "code": reply.status,
            "message": reply.message,
            "status": status,
        }
        if reply.code is not None:
            kind = "type.googleapis.com/google.rpc.ErrorInfo"
            error["details"] = [{"@type": kind, "reason": reply.code}]
        return orjson.dumps({"error": error})


def _items(body: Any) -> list[Any]:
    items = member(body, "requests")
    return items if isinstance(items, list) else []


def _parts(item: Any) -> list[str]:
    parts = member(member(item, "content"), "parts")
    texts = [member(part, "text") for part in parts] if isinstance(parts, list) else []
    return [text for text in texts if isinstance(text, str)]
