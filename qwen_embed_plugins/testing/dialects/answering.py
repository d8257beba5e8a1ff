"""From a recorded request to a reply, whatever the wire format. No I/O."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from qwen_embed_plugins.testing._rows import row_json
from qwen_embed_plugins.testing.behaviour import Behaviour, Reply
from qwen_embed_plugins.testing.dialects._dialect import Models, RecordedRequest, Rows
from qwen_embed_plugins.testing.vectors import reference_tokens


def answer(request: RecordedRequest, behaviour: Behaviour, models: Models) -> tuple[Reply, int]:
    """The reply to one request and the tokens it served."""
    refusal = behaviour.always or _refused_key(request, behaviour)
    if refusal is None and not request.embeds:
        return shaped(_about(request, behaviour, models), request), 0
    refusal = refusal or _refused(request, behaviour, models)
    if refusal is not None:
        return shaped(refusal, request), 0
    return _vectors(request, behaviour, models)


def shaped(reply: Reply, request: RecordedRequest) -> Reply:
    """The reply with its message as the wire format writes errors."""
    if reply.body is not None or reply.drop:
        return reply
    return replace(reply, body=request.dialect.error(reply))


def _vectors(request: RecordedRequest, behaviour: Behaviour, models: Models) -> tuple[Reply, int]:
    model = request.dialect.model(request) or ""
    texts = tuple(_within_context(text, behaviour.context_tokens) for text in request.texts)
    rows = _rows(texts, request, behaviour, models.native_length(model) or 0)
    tokens = sum(map(reference_tokens, texts))
    told = tokens if behaviour.reported_tokens is None else behaviour.reported_tokens
    counted = told if behaviour.reports_tokens else None
    return request.dialect.answer(request, rows, counted, model), tokens


def _about(request: RecordedRequest, behaviour: Behaviour, models: Models) -> Reply:
    known = request.dialect.about(request, behaviour, models)
    return known or Reply(404, f"no such route: {request.path}", "not_found_error")


def _refused_key(request: RecordedRequest, behaviour: Behaviour) -> Reply | None:
    if behaviour.key is None:
        return None
    sent = request.headers.get(behaviour.key_header)
    scheme = "Bearer " if behaviour.key_header == "authorization" else ""
    if sent == f"{scheme}{behaviour.key}":
        return None
    if sent is None and behaviour.key_missing is not None:
        return behaviour.key_missing
    plain = Reply(behaviour.key_status, "invalid api key", "authentication_error")
    return behaviour.key_refusal or plain


def _refused(request: RecordedRequest, behaviour: Behaviour, models: Models) -> Reply | None:
    model, texts = request.dialect.model(request), request.texts
    if not isinstance(request.body, dict) or model is None:
        return Reply(400, "the body must be an object with a model", "invalid_request_error")
    if models.native_length(model) is None:
        return Reply(404, f"model '{model}' not found", "not_found_error")
    if not texts:
        return Reply(400, "input must hold at least one text", "invalid_request_error")
    if behaviour.max_inputs is not None and len(texts) > behaviour.max_inputs:
        refusal = behaviour.too_many_inputs
        message = refusal.message.format(limit=behaviour.max_inputs, count=len(texts))
        return replace(refusal, message=message)
    marker = behaviour.refuse_texts_with
    if marker is not None and any(marker in text for text in texts):
        return Reply(400, behaviour.refusal, "invalid_request_error")
    unknown = request.dialect.refused(request)
    return (
        unknown
        or _refused_parameters(request, model, behaviour)
        or _refused_length(request, behaviour)
    )


def _refused_parameters(request: RecordedRequest, model: str, behaviour: Behaviour) -> Reply | None:
    known = behaviour.known_parameters
    if known is not None and (extra := sorted(request.body.keys() - known)):
        # pydantic's words for a field that a model with `extra="forbid"` does not have.
        message = f"Extra inputs are not permitted, field: '{extra[0]}'"
        return Reply(400, message, "invalid_request_error")
    wish = request.dialect.wish(request)
    if behaviour.dimensions == "refuse" and wish.dimensions is not None:
        message = f'Model "{model}" does not support matryoshka representation'
        return Reply(400, message, "BadRequestError")
    if behaviour.encodings == "refuses_base64" and wish.base64:
        return Reply(400, "encoding_format must be 'float'", "invalid_request_error")
    return None


def _refused_length(request: RecordedRequest, behaviour: Behaviour) -> Reply | None:
    longest = max(map(reference_tokens, request.texts))
    if longest <= behaviour.context_tokens or request.dialect.cuts(request, behaviour):
        return None
    return request.dialect.too_long(behaviour.context_tokens)


def _within_context(text: str, context_tokens: int) -> str:
    if reference_tokens(text) <= context_tokens:
        return text
    return text.encode()[: (context_tokens - 1) * 4].decode("utf-8", "ignore")


def _rows(
    texts: Sequence[str], request: RecordedRequest, behaviour: Behaviour, native: int
) -> Rows:
    wish = request.dialect.wish(request)
    encoding = "base64" if wish.base64 and behaviour.encodings != "floats_only" else "float"
    rows = [row_json(text, native, wish.dimensions, encoding, behaviour) for text in texts]
    if not request.dialect.has_indexes and behaviour.order in ("shuffled", "shuffled_with_gaps"):
        return list(enumerate(rows))
    return _ordered(rows, behaviour)


def _ordered(rows: list[bytes], behaviour: Behaviour) -> Rows:
    numbered: list[tuple[int | None, bytes]] = list(enumerate(rows))
    match behaviour.order:
        case "shuffled":
            random.Random(len(rows)).shuffle(numbered)
        case "shuffled_with_gaps":
            numbered = [(place * 5, row) for place, row in enumerate(rows)]
            random.Random(len(rows)).shuffle(numbered)
        case "duplicate":
            numbered[-1] = numbered[0]
        case "one_missing":
            numbered.pop()
        case "one_extra":
            numbered.append((len(rows), rows[0]))
        case "no_index":
            numbered = [(None, row) for row in rows]
    return numbered
