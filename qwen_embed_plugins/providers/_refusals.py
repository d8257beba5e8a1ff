"""What a refusal of an OpenAI-compatible server means, whichever of the known shapes it has.

Servers agree neither on statuses nor on shapes, so codes are read before messages. A message may
quote the user's text: a rule that takes more than this text out of service (an account, an offer)
never rests on words that could stand anywhere in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import orjson

from qwen_embed_plugins.errors import without_secrets
from qwen_embed_plugins.provider import classify_by_status
from qwen_embed_plugins.types import Fault, TransportFailure, WireResponse

MESSAGE_LIMIT = 200
"""Characters of a server's message that we keep: enough to act on, too few for a whole text."""

# "Out of money" has no status of its own. DashScope: 400 Arrearage, 429 insufficient_quota or a
# FreeTierOnly code; Jina: 403 AUTHZ_INSUFFICIENT_BALANCE; OpenAI: 429 insufficient_quota (their
# error code pages, read 2026-11).
_SPENT_CODES = re.compile(
    r"(?i)insufficient_quota|insufficient_balance|arrearage|freetieronly|billing_hard_limit"
)
_SPENT_MESSAGES = re.compile(
    r"(?i)^.{0,80}(exceeded your current quota|insufficient (account )?balance|insufficient credits"
    r"|balance is insufficient|free tier .{0,40}exhausted)"
)
_KEY_CODES = re.compile(r"(?i)^(invalid_api_key|invalidapikey|authentication_error)$")
_MODEL_CODES = re.compile(r"(?i)^(model_?not_?found|invalid_model|model_not_exist)$")
# Only its name may stand between "model" and "not found", lest a quoted text takes the offer out.
_MODEL_MESSAGES = re.compile(
    r"""(?ix)^ (unknown | invalid | no\ such) \ model\b
    | ^ (the\ )? model (\s*[:=]?\s* ['"`]? [\w./:@-]{1,100} ['"`]?)?
        \s+ (is\ |was\ |does\ |could\ )? not\ (be\ )? (found | exist | available | support)"""
)
# vLLM refuses `dimensions` for Qwen3 with these words (QwenLM/Qwen3-Embedding#85), pydantic
# servers an unknown field with "Extra inputs are not permitted".
_PARAMETER_MESSAGES = re.compile(
    r"(?i)^.{0,120}(does not support matryoshka|extra inputs are not permitted"
    r"|(unknown|unsupported|unrecognized) (request )?(parameter|argument))"
)
_LENGTH_CODES = re.compile(
    r"(?i)^(context_length_exceeded|exceed_context_size_error|string_too_long"
    r"|max_tokens_per_request)"
)
# "input is too large to process. increase the physical batch size" is llama.cpp's, with status 500
# (ggml-org/llama.cpp#12295).
_LENGTH_MESSAGES = re.compile(
    r"(?i)(context (length|size|window)|maximum context|max(imum)? (input|sequence) length"
    r"|must have less than \d+ tokens|too (long|large|many (tokens|inputs))|batch size)"
)
# DashScope: "batch size is invalid, it should not be larger than 10"; TEI: "batch size 33 > maximum
# allowed batch size 32"; pydantic servers: "List should have at most 2048 items"; OpenAI:
# "Expected an array with maximum length 2048".
_INPUT_LIMIT = re.compile(
    r"(?i)(?:batch size.{0,60}?(?:not (?:be )?(?:larger|greater|more) than"
    r"|maximum allowed batch size|at most|limit of)"
    r"|(?:list|array|input) .{0,40}?at most|array with maximum length) (\d{1,6})"
)
# Only the parameter's name counts: "base64" may stand in a quoted text.
_ENCODING = re.compile(r"(?i)encoding[_ ]format")
# TEI, vLLM and Ollama name a failed computation so; "nan" alone is a word in many languages.
_NOT_FINITE = re.compile(r"NaN or Inf|unsupported value: NaN|not JSON compliant|contains NaN")
_TITLE = re.compile(r"(?is)<title[^>]*>\s*([^<]{1,80})")


# Where pydantic servers say that the texts are wrong, and not the form of the request.
_TEXT_FIELDS = frozenset({"input", "inputs", "texts"})


class Refusal(NamedTuple):
    """The parts of an error answer; `text_index` is the input it names, if it does, and `field` the
    part of the request's body."""

    message: str = ""
    type: str = ""
    code: str = ""
    text_index: int | None = None
    field: str = ""


def read_refusal(response: WireResponse) -> Refusal:
    """The refusal in a body of any known shape; all parts empty if it is none of them."""
    try:
        body = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        return Refusal()
    if isinstance(body, str):  # SiliconFlow for a wrong key
        return Refusal(body)
    return _in_object(body) if isinstance(body, dict) else Refusal()


def _in_object(body: Mapping[str, Any]) -> Refusal:
    error = body.get("error")
    if isinstance(error, dict):  # OpenAI, newer vLLM, Infinity, llama.cpp
        return _flat(error)
    errors = body.get("errors")
    if isinstance(errors, list) and errors and isinstance(errors[0], dict):  # Cloudflare
        return _flat(errors[0])
    if isinstance(error, str):  # Ollama, TEI's native routes
        return Refusal(error, _word(body.get("error_type")))
    if isinstance(body.get("fault"), dict):  # Fireworks' gateway
        return Refusal(_word(body["fault"].get("faultstring")))
    # Older vLLM, TEI's OpenAI route, DashScope's native one; Novita has a reason at least.
    if isinstance(body.get("message", body.get("reason")), str):
        return _flat(body)
    detail = body.get("detail")
    if isinstance(detail, str):  # FastAPI; Jina names a code beside it
        return Refusal(detail, "", _word(body.get("code")))
    if isinstance(detail, dict):
        return _in_object(detail)
    if isinstance(detail, list) and detail and isinstance(detail[0], dict):  # pydantic
        return _validation(detail)
    return Refusal()


def _flat(error: Mapping[str, Any]) -> Refusal:
    metadata = error.get("metadata")  # OpenRouter
    typed = metadata.get("error_type") if isinstance(metadata, dict) else None
    kind = error.get("type") or typed or error.get("reason")  # the last is Novita's
    return Refusal(_word(error.get("message")), _word(kind), _word(error.get("code")))


def _word(value: Any) -> str:
    return str(value) if isinstance(value, (str, int)) else ""


def _validation(detail: list[Any]) -> Refusal:
    """The first of pydantic's complaints; its `loc` is a path such as ["body", "input", 3]."""
    where = detail[0].get("loc")
    path = where[1:] if isinstance(where, list) else []
    field = _field(path)
    in_one_text = len(detail) == 1 and field in _TEXT_FIELDS and type(path[-1]) is int
    message, kind = _word(detail[0].get("msg")), _word(detail[0].get("type"))
    return Refusal(message, kind, "", path[-1] if in_one_text else None, field)


def _field(path: list[Any]) -> str:
    """The field of the body that a path leads to. Infinity, whose body has several forms, puts the
    form's name before it: ["text", "input", "list[constrained-str]", 3] (seen from 0.0.78)."""
    named = [part for part in path[:2] if isinstance(part, str)]
    known = (part for part in named if part in _TEXT_FIELDS or part == "encoding_format")
    return next(known, named[0] if named and named[0] == path[0] else "")


def classify_refusal(response: WireResponse, *, key: str | None = None) -> Fault:
    """The fault of an answer that is no success, its message free of the configured key."""
    refusal = read_refusal(response)
    said = shortened(refusal.message, key) if refusal.message else words_of(response, key)
    by_status = classify_by_status(response, said)
    fault = _by_code(refusal, by_status) or _by_message(refusal, response.status, by_status)
    return fault or replace(by_status, text_index=refusal.text_index)


def _by_code(refusal: Refusal, base: Fault) -> Fault | None:
    codes = (refusal.code, refusal.type)
    if any(_SPENT_CODES.search(code) for code in codes):
        return replace(base, kind="quota_spent", scope="account")
    if any(_KEY_CODES.match(code) for code in codes):
        return replace(base, kind="bad_key", scope="account", retry_after_seconds=None)
    if any(_MODEL_CODES.match(code) for code in codes):
        return replace(base, kind="bad_offer")
    if any(_LENGTH_CODES.match(code) for code in codes):
        return replace(base, kind="too_large", limit=_input_limit(refusal.message))
    return None


def _by_message(refusal: Refusal, status: int, base: Fault) -> Fault | None:
    message = refusal.message
    if status in (402, 403, 429) and _SPENT_MESSAGES.search(message):
        return replace(base, kind="quota_spent", scope="account")
    if status not in (400, 413, 422, 500):
        return None
    if status != 500 and (_ENCODING.search(message) or refusal.field == "encoding_format"):
        return replace(base, kind="bad_input", asks_for_floats=True)
    if refusal.field and refusal.field not in _TEXT_FIELDS:
        return replace(base, kind="bad_offer")
    if _NOT_FINITE.search(message):
        return replace(base, kind="bad_vector")
    if _MODEL_MESSAGES.search(message) or _PARAMETER_MESSAGES.search(message):
        return replace(base, kind="bad_offer")
    if _LENGTH_MESSAGES.search(message) or _INPUT_LIMIT.search(message):
        return replace(base, kind="too_large", limit=_input_limit(message))
    return None


def _input_limit(message: str) -> int | None:
    found = _INPUT_LIMIT.search(message)
    return int(found[1]) or None if found else None


def shortened(message: str, key: str | None, limit: int = MESSAGE_LIMIT) -> str:
    """A message on one line; cleaned before it is cut, lest half a key remains at the end."""
    return without_secrets(" ".join(message.split()), (key,) if key else ())[:limit]


def words_of(response: WireResponse, key: str | None, limit: int = MESSAGE_LIMIT) -> str:
    """The beginning of a body that is in no known shape; of an HTML page its title."""
    text = response.content[: limit * 20].decode("utf-8", "replace")
    if text.lstrip()[:1] == "<":
        title = _TITLE.search(text)
        text = f"an HTML page{f' titled {title[1]}' if title else ''}"
    return shortened(text, key, limit)


def fault_of(answer: WireResponse | TransportFailure, *, key: str | None = None) -> Fault:
    """The fault of whatever came instead of vectors, its message free of the key."""
    if isinstance(answer, TransportFailure):
        return Fault("unavailable", shortened(str(answer), key) or f"no answer ({answer.kind})")
    return classify_refusal(answer, key=key)
