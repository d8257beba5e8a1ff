"""Error answers of services and servers that somebody has read, for the page of providers.

Only what a document, a source or an issue shows stands here. What follows from an answer is asked
of the provider's own `classify`, so that the page says what the code does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import orjson


class KnownAnswer(NamedTuple):
    """One refusal: its status, its body as far as it is known, and what the service means by it."""

    status: int
    body: object
    means: str

    @property
    def content(self) -> bytes:
        return b"" if self.body is None else orjson.dumps(self.body)


def _code(status: int, code: str | int, means: str) -> KnownAnswer:
    return KnownAnswer(status, {"error": {"code": code, "message": ""}}, means)


def _status(status: int, means: str) -> KnownAnswer:
    return KnownAnswer(status, None, means)


def _cloudflare(status: int, code: int, means: str) -> KnownAnswer:
    body = {"success": False, "errors": [{"code": code, "message": ""}], "result": None}
    return KnownAnswer(status, body, means)


def _jina(status: int, code: str, means: str) -> KnownAnswer:
    return KnownAnswer(status, {"code": code, "detail": ""}, means)


_TOO_MANY_FOR_DASHSCOPE = (
    "<400> InternalError.Algo.InvalidParameter: Value error, batch size is invalid, it should not "
    "be larger than 10.: input.contents"
)

_DASHSCOPE = (
    KnownAnswer(
        400,
        {"error": {"code": "InvalidParameter", "message": _TOO_MANY_FOR_DASHSCOPE}},
        "more than 10 texts",
    ),
    _code(400, "Arrearage", "the account is overdue"),
    _code(400, "DataInspectionFailed", "the content filter refuses a text"),
    _code(401, "invalid_api_key", "wrong key, or a key of the other region"),
    _code(403, "AccessDenied", "no right to the model"),
    _code(404, "ModelNotFound", "no such model"),
    _code(429, "Throttling.RateQuota", "requests a minute"),
    _code(429, "Throttling.AllocationQuota", "tokens a minute"),
    _code(429, "insufficient_quota", "the free quota is spent"),
)

_SILICONFLOW = (
    KnownAnswer(
        400, {"code": 20012, "message": "Model does not exist", "data": None}, "no such model"
    ),
    _status(401, "wrong key"),
    _status(403, "the model needs a verified identity"),
    _status(429, "requests or tokens a minute or a day"),
    _status(503, "overloaded"),
)

KNOWN_ANSWERS: Mapping[str, tuple[KnownAnswer, ...]] = {
    "ollama": (
        KnownAnswer(
            400,
            {"error": "the input length exceeds the context length"},
            "a text does not fit the context",
        ),
        KnownAnswer(
            400,
            {"error": "embedding contains NaN or Inf values"},
            "the computation failed, as the 8B does in half precision",
        ),
        KnownAnswer(404, {"error": 'model "x" not found'}, "the model is not pulled"),
        KnownAnswer(
            503,
            {"error": "server busy, please try again.  maximum pending requests exceeded"},
            "its queue is full",
        ),
    ),
    "dashscope-singapore": _DASHSCOPE,
    "dashscope-beijing": _DASHSCOPE,
    "scaleway": (
        _status(401, "no authorization header"),
        _status(403, "wrong key, or no permission"),
        _status(422, "unknown or missing model"),
        _status(429, "requests, tokens or connections"),
        _status(504, "timeout"),
    ),
    "deepinfra": (
        KnownAnswer(403, {"detail": {"error": "Not authenticated"}}, "wrong key, as seen in 2025"),
        KnownAnswer(429, {"error": "Rate limited"}, "requests at once, or a busy model"),
    ),
    "siliconflow": _SILICONFLOW,
    "siliconflow-com": _SILICONFLOW,
    "fireworks": (
        _status(429, "tokens a minute"),
        _status(503, "overloaded"),
    ),
    "openrouter": (
        _code(402, 402, "no balance, or the key's own cap"),
        _code(403, 403, "a guardrail"),
        _code(404, 404, "no such model"),
        _code(408, 408, "timeout"),
        _code(413, 413, "too large"),
        _code(429, 429, "rate limit"),
        _code(502, 502, "the upstream is down"),
        _code(503, 503, "no upstream fits the routing"),
        _code(529, 529, "the upstream is overloaded"),
    ),
    "novita": (
        _status(401, "wrong key"),
        _status(403, "no permission, or an unverified identity"),
        _status(429, "requests or tokens a minute"),
        _status(503, "overloaded"),
    ),
    "cloudflare": (
        _cloudflare(429, 3036, "the Neurons of the day are used up: tomorrow, 00:00 UTC"),
        _cloudflare(429, 3040, "out of capacity: soon again"),
        _cloudflare(400, 5007, "no such model"),
        _cloudflare(413, 3006, "too large"),
        _cloudflare(408, 3007, "timeout"),
        _cloudflare(403, 5016, "no right to the model"),
    ),
    "voyage": (
        KnownAnswer(401, {"detail": ""}, "wrong key"),
        KnownAnswer(403, {"detail": ""}, "the address is forbidden"),
        KnownAnswer(429, {"detail": ""}, "requests or tokens a minute"),
    ),
    "jina": (
        _jina(400, "INPUT_MODEL_NOT_FOUND", "no such model"),
        _jina(401, "AUTH_INVALID_API_KEY", "wrong key"),
        _jina(403, "AUTHZ_INSUFFICIENT_BALANCE", "no tokens left"),
        _jina(429, "RATE_REQUEST_LIMIT_EXCEEDED", "requests a minute"),
        _jina(429, "RATE_TOKEN_LIMIT_EXCEEDED", "tokens a minute"),
        _jina(429, "RATE_CONCURRENCY_LIMIT_EXCEEDED", "requests at once"),
    ),
    "openai": (
        _code(401, "invalid_api_key", "wrong key"),
        _code(403, "unsupported_country_region_territory", "the country is not served"),
        _code(429, "insufficient_quota", "no balance"),
    ),
    "vllm": (
        KnownAnswer(
            400,
            {
                "object": "error",
                "message": 'Model "x" does not support matryoshka representation, changing output '
                "dimensions will lead to poor results.",
                "type": "BadRequestError",
                "code": 400,
            },
            "it was not started for shorter vectors",
        ),
    ),
    "tei": (
        KnownAnswer(422, {"message": "", "code": 422, "type": "Validation"}, "wrong input"),
        KnownAnswer(424, {"message": "", "code": 424, "type": "Backend"}, "the computation failed"),
        KnownAnswer(429, {"message": "", "code": 429, "type": "Overloaded"}, "its queue is full"),
    ),
    "llama-cpp": (
        KnownAnswer(
            500,
            {
                "error": {
                    "code": 500,
                    "message": "input is too large to process. increase the physical batch size",
                    "type": "server_error",
                }
            },
            "a text does not fit the physical batch",
        ),
        KnownAnswer(
            503,
            {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}},
            "it is still loading",
        ),
    ),
}
