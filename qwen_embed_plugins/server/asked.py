"""What a client asks for: the body of a request for embeddings, read and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, get_args

import orjson

from qwen_embed_plugins.errors import shown
from qwen_embed_plugins.server.refusals import Refusal, texts_without_vector
from qwen_embed_plugins.spaces import EmbeddingSpace
from qwen_embed_plugins.types import Role, TextError

MOST_TEXTS = 2_048
"""As many texts as OpenAI's own service takes in one request."""

Encoding = Literal["float", "base64"]

FIELDS = ("input", "model", "dimensions", "encoding_format", "user", "input_type", "instruction")

SEND_TEXTS = (
    "send the texts themselves: tokens are another model's numbers here. LangChain's "
    "OpenAIEmbeddings does so with check_embedding_ctx_length=False"
)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request for embeddings. `instruction` is None for documents, and for queries that take
    that of the settings."""

    texts: Sequence[str]
    role: Role
    instruction: str | None
    encoding: Encoding


def read(body: bytes, space: EmbeddingSpace) -> Asked:
    """What a body asks for. Raises `Refusal` for whatever this server does not do: a field that is
    not known may be a misspelt one, whose vectors would be others than those meant."""
    fields = _fields(body)
    check_model(fields.get("model"), space)
    _check_dimensions(fields.get("dimensions"), space)
    encoding = _one_of("encoding_format", fields, Encoding, "float")
    role, instruction = _role(fields)
    return Asked(_texts(fields.get("input")), role, instruction, encoding)


def check_model(name: Any, space: EmbeddingSpace) -> None:
    """Refuse any model but the one that is served."""
    if not isinstance(name, str):
        raise wrong("model", f"model = {shown(name)}: expected {space.model!r}, a string")
    if name != space.model:
        message = f"the model {shown(name)} does not exist here; this server has {space.model!r}"
        raise Refusal(404, "model_not_found", message, param="model")


def wrong(field: str, message: str, code: str = "invalid_value") -> Refusal:
    """The refusal of one field's value."""
    return Refusal(400, code, message, param=field)


def _fields(body: bytes) -> Mapping[str, Any]:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refusal(400, "invalid_json", f"the body is not valid JSON: {error}") from None
    if not isinstance(found, dict):
        kind = _json_type(found)
        raise Refusal(400, "invalid_json", f"the body is {kind}; expected a JSON object")
    for name in found:
        if name not in FIELDS:
            near = get_close_matches(name, FIELDS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(FIELDS)}"
            raise wrong(name[:60], f"unknown field {shown(name)}; {hint}", "unknown_parameter")
    return found


def _check_dimensions(asked: Any, space: EmbeddingSpace) -> None:
    if asked is not None and (isinstance(asked, bool) or asked != space.dimensions):
        message = (
            f"dimensions = {shown(asked)}: this server's vectors have {space.dimensions} numbers; "
            "ask for that, or leave it out"
        )
        raise wrong("dimensions", message)


def _one_of(field: str, fields: Mapping[str, Any], allowed: Any, default: Any) -> Any:
    value = fields.get(field)
    if value is None:
        return default
    if value not in get_args(allowed):
        expected = " or ".join(f'"{name}"' for name in get_args(allowed))
        raise wrong(field, f"{field} = {shown(value)}: expected {expected}")
    return value


def _role(fields: Mapping[str, Any]) -> tuple[Role, str | None]:
    instruction = fields.get("instruction")
    role: Role = _one_of("input_type", fields, Role, "document" if instruction is None else "query")
    if instruction is None:
        return role, None
    if not isinstance(instruction, str):
        raise wrong("instruction", f"instruction = {shown(instruction)}: expected a string")
    if role == "document":
        raise wrong("instruction", 'documents have no instruction: it goes with input_type "query"')
    return role, instruction


def _texts(given: Any) -> Sequence[str]:
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list):
        expected = "expected a string or a list of strings"
        raise wrong("input", f"input is {_json_type(given)}; {expected}", "invalid_type")
    if not texts:
        raise wrong("input", "input is an empty list; send at least one text")
    if len(texts) > MOST_TEXTS:
        raise wrong("input", f"input has {len(texts)} texts; send at most {MOST_TEXTS} at once")
    if _are_tokens(texts) or _are_tokens(texts[0]):
        message = f"input is token arrays, which this server does not take: {SEND_TEXTS}"
        raise wrong("input", message, "token_arrays_not_supported")
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            message = f"the text at position {position} is {_json_type(text)}; expected a string"
            raise wrong("input", message, "invalid_type")
    empty = [
        TextError(position, "empty", "the text is empty")
        for position, text in enumerate(texts)
        if not text or text.isspace()
    ]
    if empty:
        raise texts_without_vector(empty, len(texts))
    return texts


def _are_tokens(given: Any) -> bool:
    return isinstance(given, list) and bool(given) and all(type(item) is int for item in given)


def _json_type(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false"}
    return "missing or null" if value is None else names.get(type(value), "a number")
