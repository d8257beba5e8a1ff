"""What Ollama tells about a model that its user should know, in sentences.

Its answers are described in ollama/ollama:docs/api.md (`/api/show`, `/api/ps`); `context_length` in
`/api/ps` came later (docs/context-length.mdx). All read 2026-11.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from qwen_embed_plugins.models import Model
from qwen_embed_plugins.providers._notes import on_context, on_precision

# `<|endoftext|>`, which the tokenizer of Qwen3-Embedding puts at the end of every text
# (QwenLM/Qwen3-Embedding#54, ggml-org/llama.cpp#14314).
QWEN3_EOS_TOKEN_ID = 151643


def notes_on(
    model: Model,
    shown: Mapping[str, Any],
    loaded: Mapping[str, Any] | None,
    num_ctx: int | None,
) -> Iterator[str]:
    """Notes from the answer of `/api/show` and the model's entry in `/api/ps` (None: not loaded).

    `num_ctx` is the context that our own requests ask for.
    """
    yield from _file_notes(model, _object(shown, "details").get("quantization_level"), loaded)
    yield from _context_notes(model, num_ctx or _context_of(shown, loaded))
    if (model.hub_name or "").startswith("Qwen/Qwen3-Embedding"):
        yield from _eos_notes(_object(shown, "model_info"))


def _file_notes(model: Model, quantization: Any, loaded: Mapping[str, Any] | None) -> Iterator[str]:
    if isinstance(quantization, str):
        yield from on_precision(model, quantization, "pull another tag")
    digest = (loaded or {}).get("digest")
    if isinstance(digest, str):
        yield f"digest {digest.removeprefix('sha256:')[:12]}"


def _context_of(shown: Mapping[str, Any], loaded: Mapping[str, Any] | None) -> int | None:
    """The context that the model is loaded with, else the one that its Modelfile sets."""
    length = (loaded or {}).get("context_length")
    if type(length) is int and length > 0:
        return length
    found = re.search(r"(?m)^num_ctx\s+(\d+)$", str(shown.get("parameters") or ""))
    return int(found[1]) if found else None


def _context_notes(model: Model, context: int | None) -> Iterator[str]:
    remedy = "set num_ctx for this provider, or OLLAMA_CONTEXT_LENGTH where Ollama runs"
    if context is None:
        yield (
            "the model is not loaded, so its context is unknown; Ollama's own choice may be 4096 "
            f"of {model.context_tokens} tokens: {remedy}"
        )
    else:
        yield from on_context(model, context, remedy)


def _eos_notes(info: Mapping[str, Any]) -> Iterator[str]:
    eos, added = info.get("tokenizer.ggml.eos_token_id"), info.get("tokenizer.ggml.add_eos_token")
    if eos is None or (eos == QWEN3_EOS_TOKEN_ID and added is True):
        return
    # Conversions older than June 2025 lack the flag, which then means no.
    certain = "will" if added is not None else "may"
    yield (
        f"vectors {certain} be wrong: texts should end with <|endoftext|> (eos_token_id "
        f"{QWEN3_EOS_TOKEN_ID}, add_eos_token True), the file says eos_token_id {eos}, "
        f"add_eos_token {added}: pull the model again or take a newer GGUF"
    )


def _object(value: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    inner = value.get(name)
    return inner if isinstance(inner, dict) else {}
