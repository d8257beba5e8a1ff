"""The two wire formats of the simulated server: a recorded request in, a reply out. No I/O."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from qwen_embed_plugins.testing._rows import row_json
from qwen_embed_plugins.testing.behaviour import Behaviour, Reply
from qwen_embed_plugins.testing.vectors import reference_tokens

# Tags as Ollama's library names them, and the weights' names on the model hub.
_LISTED = ("qwen3-embedding:8b", "qwen3-embedding:4b", "qwen3-embedding:0.6b")


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """One request as it arrived. Header names are lower case; `repr` leaves their values out."""

    path: str
    headers: Mapping[str, str] = field(repr=False)
    body: Any
    texts: tuple[str, ...]
    at_seconds: float
    concurrent: int

    @property
    def speaks_ollama(self) -> bool:
        return self.path.startswith("/api/")

    @property
    def embeds(self) -> bool:
        return self.path == "/api/embed" or self.path.endswith("/embeddings")


@dataclass(frozen=True, slots=True)
class Models:
    """Which models a simulated server knows, and the native length of each.

    With `named` only those exist; otherwise any name does, at `native` numbers, or at the length
    that its Qwen3 size has if `native` is None.
    """

    named: Mapping[str, int] | None = None
    native: int | None = None

    def native_length(self, name: str) -> int | None:
        if self.named is not None:
            return self.named.get(name, self.named.get(name.removesuffix(":latest")))
        if self.native is not None:
            return self.native
        lowered = name.lower()
        return 1024 if "0.6b" in lowered else 2560 if "4b" in lowered else 4096

    def names(self) -> Sequence[str]:
        return _LISTED if self.named is None else tuple(self.named)


def texts_in(body: Any) -> tuple[str, ...]:
    """The texts of a request body, of both wire formats."""
    given = body.get("input") if isinstance(body, dict) else None
    if isinstance(given, str):
        return (given,)
    return tuple(text for text in given or () if isinstance(text, str))


def answer(request: RecordedRequest, behaviour: Behaviour, models: Models) -> tuple[Reply, int]:
    """The reply to one request and the tokens it served."""
    refusal = _refused(request, behaviour)
    if refusal is not None:
        return shaped(refusal, request), 0
    if not request.embeds:
        return shaped(_about_models(request, models), request), 0
    refusal = _refused_texts(request, behaviour, models)
    if refusal is not None:
        return shaped(refusal, request), 0
    texts = tuple(_within_context(text, behaviour.context_tokens) for text in request.texts)
    tokens = sum(map(reference_tokens, texts))
    told = tokens if behaviour.reported_tokens is None else behaviour.reported_tokens
    render = _ollama_body if request.speaks_ollama else _openai_body
    rows = _rows(texts, request, behaviour, models)
    return Reply(body=render(rows, request, behaviour, told)), tokens


def shaped(reply: Reply, request: RecordedRequest) -> Reply:
    """The reply with its message as the wire format writes errors."""
    if reply.body is not None or reply.drop:
        return reply
    if request.speaks_ollama:
        return replace(reply, body=orjson.dumps({"error": reply.message}))
    error = {"message": reply.message, "type": reply.type, "param": None, "code": reply.code}
    return replace(reply, body=orjson.dumps({"error": error}))


def _refused(request: RecordedRequest, behaviour: Behaviour) -> Reply | None:
    if behaviour.always is not None:
        return behaviour.always
    bearer = request.headers.get("authorization", "")
    if behaviour.key is not None and bearer != f"Bearer {behaviour.key}":
        return Reply(behaviour.key_status, "invalid api key", "authentication_error")
    return None


def _refused_texts(request: RecordedRequest, behaviour: Behaviour, models: Models) -> Reply | None:
    body, texts = request.body, request.texts
    if not isinstance(body, dict) or not isinstance(body.get("model"), str):
        return Reply(400, "the body must be an object with a model", "invalid_request_error")
    if models.native_length(body["model"]) is None:
        return Reply(404, f"model '{body['model']}' not found", "not_found_error")
    if not texts:
        return Reply(400, "input must hold at least one text", "invalid_request_error")
    if behaviour.max_inputs is not None and len(texts) > behaviour.max_inputs:
        message = f"batch size is invalid, it should not be larger than {behaviour.max_inputs}"
        return Reply(400, message, "invalid_request_error")
    marker = behaviour.refuse_texts_with
    if marker is not None and any(marker in text for text in texts):
        return Reply(400, behaviour.refusal, "invalid_request_error")
    return _refused_parameters(body, behaviour) or _refused_length(request, behaviour)


def _refused_parameters(body: Mapping[str, Any], behaviour: Behaviour) -> Reply | None:
    if behaviour.dimensions == "refuse" and body.get("dimensions") is not None:
        message = f'Model "{body["model"]}" does not support matryoshka representation'
        return Reply(400, message, "BadRequestError")
    if behaviour.encodings == "refuses_base64" and body.get("encoding_format") == "base64":
        return Reply(400, "encoding_format must be 'float'", "invalid_request_error")
    return None


def _refused_length(request: RecordedRequest, behaviour: Behaviour) -> Reply | None:
    if all(reference_tokens(text) <= behaviour.context_tokens for text in request.texts):
        return None
    if request.speaks_ollama:
        cuts = request.body.get("truncate", True) is not False
        return None if cuts else Reply(400, "the input length exceeds the context length")
    if behaviour.too_long == "cut":
        return None
    message = f"This model's maximum context length is {behaviour.context_tokens} tokens"
    return Reply(400, message, "invalid_request_error", "context_length_exceeded")


def _within_context(text: str, context_tokens: int) -> str:
    if reference_tokens(text) <= context_tokens:
        return text
    return text.encode()[: (context_tokens - 1) * 4].decode("utf-8", "ignore")


def _rows(
    texts: Sequence[str], request: RecordedRequest, behaviour: Behaviour, models: Models
) -> list[bytes]:
    native = models.native_length(request.body["model"]) or 0
    asked = request.body.get("dimensions")
    wants_base64 = request.body.get("encoding_format") == "base64"
    encoding = "base64" if wants_base64 and behaviour.encodings != "floats_only" else "float"
    return [row_json(text, native, asked, encoding, behaviour) for text in texts]


def _ollama_body(
    rows: list[bytes], request: RecordedRequest, behaviour: Behaviour, tokens: int
) -> bytes:
    body: dict[str, Any] = {
        "model": request.body["model"],
        "embeddings": [orjson.Fragment(row) for row in _listed(rows, behaviour)],
        "total_duration": 14143917,
        "load_duration": 1019500,
    }
    if behaviour.reports_tokens:
        body["prompt_eval_count"] = tokens
    return orjson.dumps(body)


def _listed(rows: list[bytes], behaviour: Behaviour) -> list[bytes]:
    """The rows of a format that knows places only: another order would be another answer."""
    if behaviour.order in ("shuffled", "shuffled_with_gaps"):
        return rows
    return [row for _, row in _ordered(rows, behaviour)]


def _openai_body(
    rows: list[bytes], request: RecordedRequest, behaviour: Behaviour, tokens: int
) -> bytes:
    data = [
        {"object": "embedding", "index": index, "embedding": orjson.Fragment(row)}
        for index, row in _ordered(rows, behaviour)
    ]
    if behaviour.order == "no_index":
        for item in data:
            del item["index"]
    body: dict[str, Any] = {"object": "list", "data": data, "model": request.body["model"]}
    if behaviour.reports_tokens:
        body["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens}
    return orjson.dumps(body)


def _ordered(rows: list[bytes], behaviour: Behaviour) -> list[tuple[int, bytes]]:
    numbered = list(enumerate(rows))
    match behaviour.order:
        case "shuffled":
            random.Random(len(rows)).shuffle(numbered)
        case "shuffled_with_gaps":
            random.Random(len(rows)).shuffle(numbered)
            numbered = [(index * 5, row) for index, row in numbered]
        case "duplicate":
            numbered[-1] = numbered[0]
        case "one_missing":
            numbered.pop()
        case "one_extra":
            numbered.append((len(rows), rows[0]))
    return numbered


def _about_models(request: RecordedRequest, models: Models) -> Reply:
    names = models.names()
    if request.path == "/api/tags":
        listed: Any = {"models": [{"name": name, "model": name} for name in names]}
    elif request.path == "/api/version":
        listed = {"version": "0.33.0"}
    elif request.path == "/api/show":
        return _shown(request, models)
    elif request.path.endswith("/models"):
        listed = {"object": "list", "data": [{"id": name, "object": "model"} for name in names]}
    else:
        return Reply(404, f"no such route: {request.path}", "not_found_error")
    return Reply(body=orjson.dumps(listed))


def _shown(request: RecordedRequest, models: Models) -> Reply:
    body = request.body if isinstance(request.body, dict) else {}
    name = str(body.get("model") or body.get("name") or "")
    length = models.native_length(name)
    if length is None:
        return Reply(404, f"model '{name}' not found")
    known = {"general.architecture": "qwen3", "qwen3.embedding_length": length}
    return Reply(body=orjson.dumps({"model_info": known, "capabilities": ["embedding"]}))
