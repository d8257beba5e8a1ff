"""The switchboard of a simulated server: how its vectors are wrong and how its answers fail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Dimensions = Literal["shorten", "cut", "ignore", "pad", "refuse"]
RowDamage = Literal[
    "none",
    "scaled",
    "not_normalised",
    "null",
    "nan",
    "infinite",
    "zero",
    "padded",
    "cut",
    "long",
]
Order = Literal[
    "in_order",
    "shuffled",
    "shuffled_with_gaps",
    "no_index",
    "duplicate",
    "one_missing",
    "one_extra",
]


@dataclass(frozen=True, slots=True, eq=False)
class Reply:
    """One scripted answer. Without `body`, `message` is shaped as the wire format shapes errors.

    `wait_seconds` passes before anything is sent; `cut_at` is the number of body bytes after which
    the connection drops; `drop` closes it without any answer.
    """

    status: int = 200
    message: str = ""
    type: str | None = None
    code: str | int | None = None
    body: bytes | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)
    wait_seconds: float = 0.0
    cut_at: int | None = None
    drop: bool = False

    @classmethod
    def rate_limited(cls, retry_after_seconds: float | None = None) -> Reply:
        """429, with `Retry-After` if given."""
        known = {} if retry_after_seconds is None else {"retry-after": f"{retry_after_seconds:g}"}
        return cls(429, "rate limit reached", "rate_limit_error", headers=known)

    @classmethod
    def html(cls, status: int = 502) -> Reply:
        """A proxy's page instead of JSON; also with status 200."""
        page = b"<html><head><title>Bad gateway</title></head><body>nginx</body></html>"
        return cls(status, body=page, headers={"content-type": "text/html"})

    @classmethod
    def garbage(cls, size: int, status: int = 200) -> Reply:
        """So many bytes which are no JSON."""
        return cls(status, body=b"\x00\xff{]" * (size // 4) + b"?" * (size % 4))

    @classmethod
    def dropped(cls) -> Reply:
        """The connection closes before any answer."""
        return cls(drop=True)

    @classmethod
    def truncated(cls, at: int = 20) -> Reply:
        """A body that ends after `at` bytes of the 1,000 announced."""
        return cls(body=b'{"data":[{"index":0,"embedding":"' + b"A" * 967, cut_at=at)

    @classmethod
    def error_in_200(cls, message: str, code: str | int | None = None) -> Reply:
        """Status 200 around an error object, as OpenRouter answers when an upstream failed."""
        return cls(200, message, "error", code)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What a simulated server does wrong. The default does everything right.

    Vectors: `dimensions` says how a request's wish for fewer or more numbers is met: "shorten"
    (cut and normalised below the native length, ignored at or above it: Ollama), "cut" (not
    normalised: Infinity), "ignore", "pad" (zeros up to the length asked for: DeepInfra) or
    "refuse" (400: vLLM). `rows` damages each vector of a text that contains `rows_with`;
    `order` damages their list (the native Ollama route has no indexes and is never shuffled);
    `seed` serves another space; `noise` is the length of a random vector added to each unit vector.

    Answers: `always` replaces every answer; `refuse_texts_with` refuses a request with 400 if one
    of its texts contains it, with `refusal` as the message. `encodings` says what becomes of
    `encoding_format`. `too_long` says what the OpenAI route does with a text over
    `context_tokens`; the native Ollama route follows the request's `truncate`. `reported_tokens`
    is claimed instead of the right count, and nothing at all if `reports_tokens` is false.

    What a service insists on: `known_parameters` are the only fields that a body may have. `key` is
    the only right one; it is looked for in `key_header`, after "Bearer " if that is
    `authorization`. A wrong one is answered by `key_refusal`, or plainly with `key_status` if that
    is None; where there is no such header at all, `key_missing` answers, if it is set.
    `too_many_inputs` answers more than `max_inputs` texts; in its message `{limit}` and `{count}`
    stand for both numbers.
    """

    dimensions: Dimensions = "shorten"
    rows: RowDamage = "none"
    rows_with: str = ""
    order: Order = "in_order"
    seed: int = 0
    noise: float = 0.0
    scale: float = 3.0

    always: Reply | None = None
    refuse_texts_with: str | None = None
    refusal: str = "the text was refused by a content filter"
    known_parameters: frozenset[str] | None = None
    key: str | None = None
    key_header: str = "authorization"
    key_status: int = 401
    key_refusal: Reply | None = None
    key_missing: Reply | None = None
    max_inputs: int | None = None
    too_many_inputs: Reply = Reply(
        400, "batch size is invalid, it should not be larger than {limit}", "invalid_request_error"
    )
    context_tokens: int = 32768
    too_long: Literal["refuse", "cut"] = "refuse"
    encodings: Literal["both", "floats_only", "refuses_base64"] = "both"
    reports_tokens: bool = True
    reported_tokens: int | None = None
    gzip: bool = False
    latency_seconds: float = 0.0
