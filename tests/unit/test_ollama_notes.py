"""What `--check` tells of a model that Ollama holds."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from qwen_embed_plugins.models import QWEN3_MODELS, Model
from qwen_embed_plugins.provider import ProviderConfig
from qwen_embed_plugins.providers.ollama import Ollama
from qwen_embed_plugins.types import WireRequest, WireResponse

BIG = QWEN3_MODELS[0]
GOOD_INFO = {
    "general.architecture": "qwen3",
    "qwen3.context_length": 40960,
    "tokenizer.ggml.eos_token_id": 151643,
    "tokenizer.ggml.add_eos_token": True,
}
DIGEST = "64b933495768e1a5b5d1c6b0a8b6d5e8c3f1a2b4c6d8e0f2a4b6c8d0e2f4a6b8"


def inspected(
    show: Any,
    running: Any = None,
    *,
    status: int = 200,
    name: str = "qwen3-embedding:8b",
    model: Model = BIG,
    **options: Any,
) -> tuple[tuple[str, ...], list[WireRequest]]:
    """The notes, and what was asked for them."""
    provider = Ollama(ProviderConfig("ollama", "http://127.0.0.1:11434", "a-key", options))
    inspection = provider.inspect(name, model)
    answers = iter(
        [
            WireResponse(status, orjson.dumps(show)),
            WireResponse(200, orjson.dumps({"models": running or []})),
        ]
    )
    requests: list[WireRequest] = []
    reply: Any = None
    while True:
        try:
            request = inspection.send(reply)
        except StopIteration as done:
            return done.value, requests
        assert isinstance(request, WireRequest)
        requests.append(request)
        reply = next(answers)


def show(**changes: Any) -> dict[str, Any]:
    details = {"format": "gguf", "quantization_level": "Q4_K_M"}
    return {"details": details, "model_info": GOOD_INFO, "parameters": "", **changes}


def entry(name: str = "qwen3-embedding:8b", **more: Any) -> dict[str, Any]:
    return {"name": name, "model": name, "digest": DIGEST, **more}


def test_a_loaded_model_with_room_for_its_whole_context() -> None:
    notes, requests = inspected(show(), [entry("other:7b"), entry(context_length=40960)])
    assert notes == ("weights are Q4_K_M", "digest 64b933495768", "context 40960 tokens")
    assert [(request.method, request.url) for request in requests] == [
        ("POST", "http://127.0.0.1:11434/api/show"),
        ("GET", "http://127.0.0.1:11434/api/ps"),
    ]
    assert orjson.loads(requests[0].content) == {"model": "qwen3-embedding:8b"}
    assert all(request.headers["authorization"] == "Bearer a-key" for request in requests)


def test_a_context_that_is_too_small_is_told_with_both_remedies() -> None:
    notes, _ = inspected(show(), [entry(context_length=4096)])
    (note,) = (note for note in notes if "context" in note)
    assert "4096 of 32768" in note
    assert "refused" in note
    assert "num_ctx" in note
    assert "OLLAMA_CONTEXT_LENGTH" in note


@pytest.mark.parametrize(
    ("parameters", "running", "options", "said"),
    [
        ("num_ctx                        8192\nstop  x", None, {}, "context 8192 of 32768"),
        ("num_ctx 8192", [entry(context_length=16384)], {}, "context 16384 of 32768"),
        ("num_ctx 8192", [entry(context_length=16384)], {"num_ctx": 2048}, "context 2048 of"),
        ("", [entry()], {"num_ctx": 32768}, "context 32768 tokens"),
        ("", None, {}, "not loaded, so its context is unknown"),
        (None, [entry("other:8b", context_length=40960)], {}, "unknown"),
    ],
)
def test_what_we_ask_for_beats_what_is_loaded_and_that_beats_the_file(
    parameters: Any, running: Any, options: Any, said: str
) -> None:
    notes, _ = inspected(show(parameters=parameters), running, **options)
    assert any(said in note for note in notes), notes


@pytest.mark.parametrize("name", ["bge-m3", "someone/bge-m3", "bge-m3:latest"])
def test_a_name_without_a_tag_is_the_latest(name: str) -> None:
    full = name if ":" in name else f"{name}:latest"
    notes, _ = inspected(show(), [entry(full, context_length=8192)], name=name)
    assert any("8192" in note for note in notes), notes


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tokenizer.ggml.add_eos_token": False}, "will be wrong"),
        ({"tokenizer.ggml.add_eos_token": None}, "may be wrong"),
        ({"tokenizer.ggml.eos_token_id": 151645}, "will be wrong"),
    ],
)
def test_a_file_that_does_not_end_texts_rightly_is_told(changes: dict[str, Any], said: str) -> None:
    info = {name: value for name, value in {**GOOD_INFO, **changes}.items() if value is not None}
    notes, _ = inspected(show(model_info=info), [entry(context_length=40960)])
    (note,) = (note for note in notes if said in note)
    assert "<|endoftext|>" in note
    other = Model("other", 4, 512)
    notes, _ = inspected(show(model_info=info), [entry(context_length=512)], model=other)
    assert not any("wrong" in note for note in notes)


def test_nothing_is_said_of_a_tokenizer_that_is_not_described() -> None:
    notes, _ = inspected(show(model_info={"general.architecture": "qwen3"}), [])
    assert not any("wrong" in note for note in notes)


def test_half_precision_of_the_largest_is_warned_of() -> None:
    half = show(details={"quantization_level": "F16"})
    notes, _ = inspected(half, [])
    assert any("NaN" in note and "#164" in note for note in notes)
    notes, _ = inspected(half, [], model=QWEN3_MODELS[-1])
    assert not any("NaN" in note for note in notes)


def test_a_missing_model_says_what_to_pull() -> None:
    missing = {"error": "model 'qwen3-embedding:8b' not found"}
    notes, requests = inspected(missing, status=404)
    assert len(requests) == 1
    assert "`ollama pull qwen3-embedding:8b`" in notes[0]


def test_answers_of_odd_shapes_give_notes_and_no_traceback() -> None:
    odds: tuple[Any, ...] = ([], "text", None)
    for odd in odds:
        notes, _ = inspected(odd)
        assert "no object" in notes[0]
    notes, _ = inspected({"details": None, "model_info": [], "parameters": 3}, [None, 4])
    assert len(notes) == 1
