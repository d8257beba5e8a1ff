"""`qwen-embed embed` from JSON lines and CSV, and going on where it was interrupted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qwen_embed_plugins.testing import Behaviour, SimulatedServer
from tests.acceptance.test_embed import assert_right

if TYPE_CHECKING:
    from tests.acceptance.conftest import Run

TEXTS = ["bread", "хлеб, вода", 'a "quoted"\nline', "面包"]
ROWS = "\n".join(json.dumps({"id": n, "body": text}) for n, text in enumerate(TEXTS))
CSV = 'id,body\n0,bread\n1,"хлеб, вода"\n2,"a ""quoted""\nline"\n\n3,面包\n'


def lines(content: bytes) -> list[object]:
    return [json.loads(line) for line in content.splitlines()]


def test_a_field_of_json_lines(run: Run, ollama: SimulatedServer) -> None:
    Path("rows.jsonl").write_text(ROWS, "utf-8")
    done = run("embed", "--file", "rows.jsonl", "--field", "body")
    assert_right(done.json, TEXTS)
    done = run("embed", "--file", "-", "--field", "body", stdin=ROWS.encode())
    assert_right(done.json, TEXTS)


def test_a_column_of_a_csv_file(run: Run, ollama: SimulatedServer) -> None:
    Path("rows.CSV").write_text("\ufeff" + CSV, "utf-8")  # as spreadsheets write it
    assert_right(run("embed", "--file", "rows.CSV", "--field", "body").json, TEXTS)
    done = run("embed", "--file", "-", "--csv", "--field", "body", stdin=CSV.encode())
    assert_right(done.json, TEXTS)


def test_a_text_longer_than_the_csv_module_likes(run: Run, ollama: SimulatedServer) -> None:
    text = "word " * 30_000
    Path("rows.csv").write_text(f"body\n{text}\n", "utf-8")
    done = run("embed", "--file", "rows.csv", "--field", "body", "--keep-going")
    # Too long for the model, which is its own affair: the line was read.
    assert "text 1" not in done.err
    assert "field larger than field limit" not in done.err


BAD = ['{"body": 7}', "no JSON", '["body"]', '{"text": "a"}', '{"body": null}']


def test_a_line_without_its_field_fails_alone(run: Run, ollama: SimulatedServer) -> None:
    Path("rows.jsonl").write_text("\n".join([*BAD, '{"body": "bread"}']), "utf-8")
    done = run("embed", "--file", "rows.jsonl", "--field", "body", "--keep-going")
    assert done.code == 1
    assert done.json[:5] == [None] * 5
    assert_right(done.json[5:], ["bread"])
    assert [line for line in done.err.splitlines() if line.startswith("line ")] == [
        "line 1: bad_input: the field 'body' is int, no string",
        "line 2: bad_input: the line is no JSON",
        "line 3: bad_input: the line is no JSON object",
        "line 4: bad_input: the field 'body' is not in the object",
        "line 5: bad_input: the field 'body' is NoneType, no string",
    ]


def test_a_row_that_is_too_short_fails_alone(run: Run, ollama: SimulatedServer) -> None:
    Path("rows.csv").write_text("id,body\n1\n2,bread\n", "utf-8")
    done = run("embed", "--file", "rows.csv", "--field", "body", "--keep-going")
    assert done.json[0] is None
    assert "line 1: bad_input: the row is too short" in done.err


MISTAKES = [
    (["bread", "--field", "body"], "--field names what to read of a --file"),
    (["--file", "rows.csv"], "of a CSV file one column is embedded: add --field NAME"),
    (["--file", "rows.csv", "--field", "text"], "no such column, there are: 'id', 'body'"),
    (["--file", "rows.csv", "--field", "body", "--resume"], "add --format jsonl --output FILE"),
    (["--file", "torn.csv", "--field", "body"], "no CSV at line 3: "),
    (
        ["bread", "--resume", "--output", "/dev/null", "--format", "jsonl"],
        "is no file that could be gone on with",
    ),
    (["bread", "--resume", "--output", "v.json"], "add --format jsonl --output FILE"),
]


@pytest.mark.parametrize(("arguments", "said"), MISTAKES)
def test_mistakes(run: Run, ollama: SimulatedServer, arguments: list[str], said: str) -> None:
    Path("rows.csv").write_text(CSV, "utf-8")
    Path("torn.csv").write_text('id,body\n1,"no end\n2,b', "utf-8")
    done = run("embed", *arguments)
    assert done.code == 2
    assert said in done.complaint
    assert ollama.requests == []


RESUME = ["embed", "--file", "texts.txt", "--format", "jsonl", "--output", "out.jsonl", "--resume"]


def test_an_interrupted_job_goes_on(run: Run, ollama: SimulatedServer) -> None:
    texts = [f"text {number}" for number in range(40)]
    Path("texts.txt").write_text("\n".join(texts))
    ollama.behaviour = Behaviour(refuse_texts_with="text 17")
    assert run(*RESUME).code == 1
    assert len(lines(Path("out.jsonl").read_bytes())) == 17
    with Path("out.jsonl").open("ab") as file:
        file.write(b"[0.25, 0.")  # as a kill leaves it
    ollama.behaviour = Behaviour()
    asked = len(ollama.requests)
    assert run(*RESUME).code == 0
    assert_right(lines(Path("out.jsonl").read_bytes()), texts)
    sent = [text for request in ollama.requests[asked:] for text in request.texts]
    assert not {*sent} & {*texts[:17]}
    asked = len(ollama.requests)
    assert run(*RESUME).code == 0
    assert len(ollama.requests) == asked
    assert len(lines(Path("out.jsonl").read_bytes())) == 40


def test_a_gap_that_was_accepted_is_not_asked_again(run: Run, ollama: SimulatedServer) -> None:
    Path("texts.txt").write_text("a\nb\nc")
    ollama.behaviour = Behaviour(refuse_texts_with="b")
    assert run(*RESUME, "--keep-going").code == 1
    assert lines(Path("out.jsonl").read_bytes())[1] is None
    assert run(*RESUME).code == 0


def test_a_file_of_others_is_not_gone_on_with(run: Run, ollama: SimulatedServer) -> None:
    Path("texts.txt").write_text("a\nb\nc")
    for content, said in (
        (b"[0.5, 0.5]\n", "out.jsonl holds vectors of 2 numbers, these have 4096"),
        (b'{"a": 1}\n', "out.jsonl does not hold a list of numbers in each line"),
        (b"null\n" * 5, "out.jsonl has 5 lines, and there are 3 texts only"),
        (b"null\n[0.5, 0.5]\n", "out.jsonl holds vectors of 2 numbers, these have 4096"),
        (b"a whole document", "out.jsonl does not hold a list of numbers in each line"),
        (b"null\na whole document", "out.jsonl does not hold a list of numbers in each line"),
    ):
        Path("out.jsonl").write_bytes(content)
        done = run(*RESUME)
        assert done.code == 2
        assert said in done.complaint
        assert Path("out.jsonl").read_bytes() == content
