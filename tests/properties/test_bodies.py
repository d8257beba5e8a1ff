"""Bodies parsed the quick way mean what they mean to a parser of JSON, however odd they are."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import orjson
import pybase64
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qwen_embed_plugins.providers import _bodies, _openai_wire
from qwen_embed_plugins.types import WireResponse

BASE64 = pybase64.b64encode(np.arange(4, dtype=np.float32).tobytes()).decode()
FILLER = " " * _bodies._LARGE_BYTES
"""Behind a body: it counts as a large one."""


@pytest.fixture(params=[True, False], ids=["simdjson", "without"], autouse=True)
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param:
        pytest.importorskip("simdjson")
    else:
        monkeypatch.setattr(_bodies, "_simdjson", lambda: None)


def plain(value: Any) -> Any:
    """What was read, as a parser of JSON gives it."""
    if isinstance(value, memoryview):
        return bytes(value).decode()
    if isinstance(value, np.ndarray):
        return [float(number) for number in value]
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, list) else value


texts = st.sampled_from([BASE64, "", "AAAA", "not base64", 'a"b', "a\\b", "a/b", '"embedding":"x"'])
numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)
long_lists = st.lists(numbers, min_size=30, max_size=40) | st.sampled_from(
    [[0.5] * 31 + [[1.0, 2.0]], [0.5] * 31 + [True], [0.5] * 31 + ["a"], [1] * 40]
)
odd = st.one_of(
    st.none(),
    st.integers(-2, 3),
    st.booleans(),
    texts,
    long_lists,
    st.lists(long_lists, max_size=2),
)
rows = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "index": odd,
            "embedding": odd,
            "object": texts,
            "nested": st.just({"embedding": BASE64}),
        },
    ),
    max_size=4,
)
bodies = st.fixed_dictionaries(
    {},
    optional={"model": texts, "data": st.one_of(rows, odd), "usage": st.just({"embedding": "x"})},
)


@given(body=bodies, tight=st.booleans(), escaped=st.booleans())
@example({"data": [{"embedding": BASE64}, {"embedding": 1}, {"embedding": BASE64}]}, True, False)
@example({"data": [{"embedding": 0}, {"embedding": BASE64}]}, True, False)
@example({"data": [{"embedding": 0}], "x": {"embedding": BASE64}}, True, False)
@example({"a\0b": 1, "data": [{"embedding": [0.5] * 40}]}, True, False)
@example({"data": [{"embedding": BASE64}], "usage": {"embedding": BASE64}}, True, False)
def test_any_body(body: Any, tight: bool, escaped: bool) -> None:
    written = json.dumps(body, separators=(",", ":") if tight else None)
    if escaped:
        written = written.replace("/", "\\/")  # as PHP does
    content = (written + FILLER).encode()
    assert plain(_bodies.loads(content)) == orjson.loads(content)


@given(content=st.binary(max_size=60))
@example(b'{"data":[{"embedding":"')
@example(b'{"data":[{"embedding":"AAAA","embedding":"AAAA"}]}')
@example(b'{"data":[{"embedding":"AAAA"}]')
@example(b'[{"embedding":"AAAA"}]')
@example(b'{"a":1,"a":2,"data":[1]}')
@example(b'{"data":{"embedding":"AAAA"}}')
@example(b'{"data":[{"x":"\xff","embedding":"AAAA"}]}')
def test_any_bytes(content: bytes) -> None:
    content = content + FILLER.encode()
    try:
        expected = orjson.loads(content)
    except orjson.JSONDecodeError:
        with pytest.raises(orjson.JSONDecodeError):
            _bodies.loads(content)
    else:
        assert plain(_bodies.loads(content)) == expected


def test_equal_rows_in_either_encoding() -> None:
    vectors = np.random.default_rng(3).standard_normal((5, 1024)).astype(np.float32)
    encoded = [pybase64.b64encode(row.tobytes()).decode() for row in vectors]
    for values, encoding in ((encoded, "base64"), (vectors.tolist(), "float")):
        data = [{"index": place, "embedding": value} for place, value in enumerate(values)]
        content = orjson.dumps({"data": data[::-1], "usage": {"prompt_tokens": 7}})
        answer = _openai_wire.parse_answer(WireResponse(200, content))
        assert (answer.tokens, answer.encoding) == (7, encoding)
        np.testing.assert_array_equal(answer.vectors, vectors)


def test_a_number_beyond_float32_is_infinite_and_a_null_is_none() -> None:
    huge = json.dumps({"data": [{"embedding": [1e300] * 40}]}) + FILLER
    [row] = _openai_wire.parse_answer(WireResponse(200, huge.encode())).vectors
    assert np.isinf(row).all()
    holey = json.dumps({"data": [{"embedding": [None] + [0.5] * 40}]}) + FILLER
    [row] = _openai_wire.parse_answer(WireResponse(200, holey.encode())).vectors
    assert np.isnan(row[0])
    assert row[1] == 0.5


def test_base64_is_not_copied() -> None:
    content = ('{"data":[{"embedding":"' + BASE64 + '"}]}' + FILLER).encode()
    [row] = _bodies.loads(content)["data"]
    assert isinstance(row["embedding"], memoryview)
    assert row["embedding"].obj is content
