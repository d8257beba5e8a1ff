"""Voyage AI's `/embeddings`: OpenAI's rows, other names for what is asked."""

from __future__ import annotations

import orjson

from qwen_embed_plugins.testing.behaviour import Behaviour, Reply
from qwen_embed_plugins.testing.dialects._dialect import (
    RecordedRequest,
    Rows,
    Wish,
    unknown_field,
)
from qwen_embed_plugins.testing.dialects.openai import OpenAIDialect, listed

_KNOWN = {
    "model",
    "input",
    "input_type",
    "truncation",
    "output_dimension",
    "output_dtype",
    "encoding_format",
}


class VoyageDialect(OpenAIDialect):
    """Cuts long texts unless told not to. Its path is OpenAI's, so it is to be named."""

    name = "voyage"

    def belongs(self, path: str) -> bool:
        return False

    def wish(self, request: RecordedRequest) -> Wish:
        base64 = request.body.get("encoding_format") == "base64"
        return Wish(request.body.get("output_dimension"), base64)

    def refused(self, request: RecordedRequest) -> Reply | None:
        extra = unknown_field(request.body, _KNOWN)
        if extra is not None:
            return Reply(400, f"Argument '{extra}' is not supported by our API")
        if request.body.get("input_type") not in (None, "query", "document"):
            return Reply(400, "Value 'input_type' is neither query nor document")
        return None

    def cuts(self, request: RecordedRequest, behaviour: Behaviour) -> bool:
        return request.body.get("truncation", True) is not False

    def too_long(self, context_tokens: int) -> Reply:
        return Reply(
            400,
            "Request to model 'voyage-3' failed. The example at index 0 in your batch has too many "
            f"tokens and does not fit into the model's context window of {context_tokens} tokens.",
        )

    def answer(self, request: RecordedRequest, rows: Rows, tokens: int | None, model: str) -> Reply:
        usage = {} if tokens is None else {"usage": {"total_tokens": tokens}}
        body = {"object": "list", "data": listed(rows), "model": model, **usage}
        return Reply(body=orjson.dumps(body))

    def error(self, reply: Reply) -> bytes:
        return orjson.dumps({"detail": reply.message})
