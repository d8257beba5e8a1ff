"""DashScope's native route: texts in `input`, everything else in `parameters`."""

from __future__ import annotations

from typing import Any

import orjson

from qwen_embed_plugins.testing.behaviour import Reply
from qwen_embed_plugins.testing.dialects._dialect import (
    Dialect,
    RecordedRequest,
    Rows,
    Wish,
    member,
    strings_of,
    unknown_field,
)

_PARAMETERS = {"text_type", "output_type", "instruct", "dimension"}
_REQUEST_ID = "318cff27-38bd-4289-8f70-18d8d37bded9"


class DashScopeDialect(Dialect):
    """Rows carry a `text_index`; errors are flat."""

    name = "dashscope"

    def belongs(self, path: str) -> bool:
        return path.endswith("/services/embeddings/text-embedding/text-embedding")

    def embeds(self, path: str) -> bool:
        return self.belongs(path)

    def texts(self, body: Any) -> tuple[str, ...]:
        return strings_of(member(member(body, "input"), "texts"))

    def wish(self, request: RecordedRequest) -> Wish:
        return Wish(member(member(request.body, "parameters"), "dimension"))

    def refused(self, request: RecordedRequest) -> Reply | None:
        parameters = member(request.body, "parameters")
        extra = unknown_field(request.body, {"model", "input", "parameters"})
        extra = extra or unknown_field(parameters, _PARAMETERS)
        if extra is not None:
            return Reply(400, f"no such parameter: {extra}", code="InvalidParameter")
        if member(parameters, "text_type") not in (None, "query", "document"):
            return Reply(400, "text_type must be query or document", code="InvalidParameter")
        return None

    def too_long(self, context_tokens: int) -> Reply:
        message = f"Range of input length should be [1, {context_tokens}]"
        return Reply(400, message, code="InvalidParameter")

    def answer(self, request: RecordedRequest, rows: Rows, tokens: int | None, model: str) -> Reply:
        embeddings = [
            ({} if index is None else {"text_index": index}) | {"embedding": orjson.Fragment(row)}
            for index, row in rows
        ]
        body: dict[str, Any] = {"output": {"embeddings": embeddings}, "request_id": _REQUEST_ID}
        if tokens is not None:
            body["usage"] = {"total_tokens": tokens}
        return Reply(body=orjson.dumps(body))

    def error(self, reply: Reply) -> bytes:
        code = reply.code if reply.code is not None else reply.type
        return orjson.dumps({"code": code, "message": reply.message, "request_id": _REQUEST_ID})
