"""`qwen-embed embed`: right vectors whatever the server does, and every way out of it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from qwen_embed_plugins.testing import Behaviour, SimulatedServer, reference_vector

if TYPE_CHECKING:
    from tests.acceptance.conftest import Run

TEXT = "Процедура банкротства физических лиц"
TEXTS = [TEXT, "how to bake bread", "火车几点出发"]
NATIVE = 4096


def assert_right(vectors: Any, texts: Sequence[str], dimensions: int = NATIVE) -> None:
    found = np.asarray(vectors, dtype=np.float64)
    assert found.shape == (len(texts), dimensions)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    native = np.stack([reference_vector(text, NATIVE) for text in texts]).astype(np.float64)
    cut = native[:, :dimensions]
    wanted = cut / np.linalg.norm(cut, axis=1, keepdims=True)
    assert (np.einsum("ij,ij->i", found, wanted) > 0.999999).all()


def test_one_text_gives_a_list_of_one_unit_vector(run: Run, ollama: SimulatedServer) -> None:
    done = run("embed", TEXT, "--format", "json")
    assert done.code == 0
    assert_right(done.json, [TEXT])
    assert done.err.splitlines() == ["texts may be sent to: ollama/qwen3-embedding-8b"]


MISCHIEF = {
    "honours": Behaviour(),
    "ignores": Behaviour(dimensions="ignore"),
    "pads": Behaviour(dimensions="pad"),
    "cuts": Behaviour(dimensions="cut"),
    "scaled": Behaviour(rows="scaled"),
    "shuffled": Behaviour(order="shuffled"),
}


@pytest.mark.parametrize("mischief", MISCHIEF)
@pytest.mark.parametrize("wire", ["ollama", "mine"])
def test_dimensions_of_the_settings_hold_whatever_the_server_does(
    run: Run, request: pytest.FixtureRequest, wire: str, mischief: str
) -> None:
    server: SimulatedServer = request.getfixturevalue(wire)
    server.behaviour = MISCHIEF[mischief]
    settings = Path("qwen-embed.toml")
    settings.write_text("dimensions = 1024\n" + settings.read_text("utf-8"), "utf-8")
    done = run("embed", *TEXTS)
    assert done.code == 0, done.err
    assert_right(done.json, TEXTS, 1024)


@pytest.mark.parametrize("wire", ["ollama", "mine"])
@pytest.mark.parametrize("mischief", ["ignores", "scaled", "shuffled"])
def test_native_length_whatever_the_server_does(
    run: Run, request: pytest.FixtureRequest, wire: str, mischief: str
) -> None:
    server: SimulatedServer = request.getfixturevalue(wire)
    server.behaviour = MISCHIEF[mischief]
    done = run("embed", *TEXTS)
    assert_right(done.json, TEXTS)


def test_options_choose_model_and_length(run: Run, ollama: SimulatedServer) -> None:
    done = run("embed", TEXT, "--model", "qwen3-embedding-0.6b", "--dimensions", 64)
    assert np.shape(done.json) == (1, 64)
    assert ollama.requests[0].body["model"] == "qwen3-embedding:0.6b"


def test_settings_may_stand_before_the_command_and_after(run: Run, ollama: SimulatedServer) -> None:
    Path("qwen-embed.toml").rename("other.toml")
    for arguments in (
        ("--settings", "other.toml", "embed", "text", "--dimensions", "64"),
        ("embed", "text", "--dimensions", "64", "--settings", "other.toml"),
    ):
        assert run(*arguments).code == 0
    assert len(ollama.requests) == 2


def test_queries_carry_the_instruction_and_documents_do_not(
    run: Run, ollama: SimulatedServer
) -> None:
    run("embed", TEXT, "--query")
    run("embed", TEXT)
    query, document = (request.texts[0] for request in ollama.requests)
    assert query.startswith("Instruct: ")
    assert query.endswith(f"\nQuery:{TEXT}")
    assert document == TEXT


@pytest.mark.parametrize("form", ["json", "jsonl", "npy"])
@pytest.mark.parametrize("to_file", [False, True])
def test_lines_of_a_file_in_each_format(
    run: Run, mine: SimulatedServer, form: str, to_file: bool
) -> None:
    lines = [f"{text} {number}" for number in range(20) for text in TEXTS]
    Path("texts.txt").write_text("\ufeff" + "\r\n".join(lines) + "\r\n", "utf-8")
    output = ["--output", "vectors"] if to_file else []
    done = run("embed", "--file", "texts.txt", "--format", form, *output)
    assert done.code == 0, done.err
    assert_right(_read(Path("vectors").read_bytes() if to_file else done.content, form), lines)
    assert not (to_file and done.content)
    assert [path.name for path in Path().iterdir() if "part" in path.name] == []


def _read(content: bytes, form: str) -> Any:
    import json

    if form == "npy":
        found = np.load(io.BytesIO(content))
        assert found.dtype == np.float32
        return found
    if form == "jsonl":
        return [json.loads(line) for line in content.splitlines()]
    return json.loads(content)


def test_standard_input_in_several_portions(run: Run, mine: SimulatedServer) -> None:
    lines = [f"line {number}" for number in range(2500)]
    done = run(
        "embed", "--file", "-", "--format", "npy", "--dimensions", 32,
        stdin="\n".join(lines).encode(),
    )  # fmt: skip
    assert_right(_read(done.content, "npy"), lines, 32)


def test_no_lines_give_no_vectors(run: Run, ollama: SimulatedServer) -> None:
    assert run("embed", "--file", "-").json == []
    assert run("embed", "--file", "-", "--format", "jsonl").content == b""
    done = run("embed", "--file", "-", "--format", "npy")
    assert _read(done.content, "npy").shape == (0, NATIVE)


def test_a_refused_text_is_named_and_nothing_is_written(run: Run, ollama: SimulatedServer) -> None:
    ollama.behave(refuse_texts_with="bread")
    Path("old.json").write_text("as it was", "utf-8")
    done = run("embed", *TEXTS, "--output", "old.json")
    assert done.code == 1
    assert "text 2: bad_input: " in done.err
    assert done.complaint == "1 text has no vector; --keep-going writes the others"
    assert Path("old.json").read_text("utf-8") == "as it was"
    assert run("embed", *TEXTS).content == b""


@pytest.mark.parametrize("form", ["json", "jsonl", "npy"])
def test_keep_going_leaves_a_gap_where_a_text_failed(
    run: Run, ollama: SimulatedServer, form: str
) -> None:
    ollama.behave(refuse_texts_with="bread")
    done = run("embed", "--file", "-", "--format", form, "--keep-going",
               stdin="\n".join(TEXTS).encode())  # fmt: skip
    assert done.code == 1
    assert "line 2: bad_input: " in done.err
    assert done.complaint == "1 text has no vector; the others are written"
    first, gap, last = _read(done.content, form)
    assert_right([first, last], [TEXTS[0], TEXTS[2]])
    assert gap is None or np.isnan(gap).all()


def test_json_lines_end_before_the_first_failure(run: Run, ollama: SimulatedServer) -> None:
    ollama.behave(refuse_texts_with="bread")
    done = run("embed", *TEXTS, "--format", "jsonl")
    assert done.code == 1
    assert_right(_read(done.content, "jsonl"), TEXTS[:1])


def test_only_the_first_ten_failures_are_named(run: Run, ollama: SimulatedServer) -> None:
    done = run("embed", "--file", "-", stdin=b"text\n" + b"\n" * 30)
    named = [line for line in done.err.splitlines() if ": empty: " in line]
    assert len(named) == 10
    assert named[0].startswith("line 2: ")
    assert done.complaint.startswith("30 texts have no vector")


def test_a_line_that_is_no_unicode_fails_alone(run: Run, ollama: SimulatedServer) -> None:
    done = run("embed", "--file", "-", "--keep-going", stdin=b"good\n\xff\xfe\nfine\n")
    assert "line 2: bad_input: not valid Unicode" in done.err
    assert [vector is None for vector in done.json] == [False, True, False]
