"""`qwen-embed doctor`: the right finding with its remedy, and the right exit code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from qwen_embed_plugins.cli.diagnosis_services import SMALLEST, Machine, of_machine
from qwen_embed_plugins.providers.ollama import Ollama
from qwen_embed_plugins.testing import Behaviour, SimulatedServer
from tests.acceptance.conftest import Database, Done, Run

NOBODY = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is configured but what a test configures."""
    for name in list(os.environ):
        if name.startswith(("QWEN_EMBED_", "OLLAMA_", "PG")) or name == "DATABASE_URL":
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)


def grades(done: Done, area: str) -> list[tuple[str, str, str]]:
    """The findings in one area: grade, what is said, what to do."""
    return [
        (one["grade"], one["said"], one["remedy"])
        for one in done.json["findings"]
        if one["area"] == area
    ]


def wrong(done: Done) -> list[tuple[str, str]]:
    assert done.json["works"] is (done.code == 0)
    return [
        (one["said"], one["remedy"]) for one in done.json["findings"] if one["grade"] == "wrong"
    ]


def test_nothing_is_configured(run: Run) -> None:
    done = run("doctor", "--json", "--offline")
    assert done.code == 0
    assert wrong(done) == []
    said = [(grade, said) for grade, said, _ in grades(done, "settings")]
    assert ("ok", "file: none") in said
    assert grades(done, "postgres")[0][:2] == ("note", "no database is named")
    assert grades(done, "state")[0][1].endswith("is made with the first text")
    assert not Path("state").exists()


def test_what_is_said_fits_and_has_no_colour_in_a_pipe(run: Run, ollama: SimulatedServer) -> None:
    done = run("doctor")
    assert done.code == 0
    assert run.fits(done.out)
    assert "\x1b" not in done.out
    assert done.out.endswith("What is configured works.\n")
    assert "ollama/qwen3-embedding-8b answers: " in done.out


def test_ollama_is_down(run: Run) -> None:
    run.settings({"ollama": {"base_url": NOBODY}})
    done = run("doctor", "--json")
    assert done.code == 1
    [(said, remedy)] = wrong(done)
    assert said == "ollama/qwen3-embedding-8b does not answer"
    assert "cannot connect to 127.0.0.1:9" in remedy
    assert "Start it with `ollama serve`" in remedy
    assert run("doctor").out.endswith("1 thing that is configured does not work.\n")


def test_ollama_that_nobody_spoke_of_may_be_down(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found where it runs, and nobody's fault where it does not."""
    folder = Path("site")
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        f"from qwen_embed_plugins.providers.ollama import Ollama\nOllama.base_url = {NOBODY!r}\n"
    )
    done = run("doctor", "--json", PYTHONPATH=str(folder.absolute()))
    assert Ollama.base_url != NOBODY
    assert (done.code, wrong(done)) == (0, [])
    said = grades(done, "providers")
    assert said[0][:2] == ("note", "ollama/qwen3-embedding-8b does not answer")
    assert said[1][0] == "note"
    assert "ollama pull" in said[1][2]


def test_a_model_that_ollama_does_not_have(run: Run) -> None:
    with SimulatedServer(models={"other": 1024}) as server:
        run.settings({"ollama": {"base_url": server.url}})
        [(_, remedy)] = wrong(run("doctor", "--json"))
    assert "run `ollama pull " in remedy


def test_the_key_is_wrong(run: Run, mine: SimulatedServer) -> None:
    mine.behaviour = Behaviour(key="another")
    done = run("doctor", "--json")
    assert done.code == 1
    [(said, remedy)] = wrong(done)
    assert said == "mine/qwen3-embedding-8b does not answer"
    assert "PLANTED_KEY" in remedy
    assert ("ok", "mine/qwen3-embedding-8b: its key is in PLANTED_KEY", "") in grades(
        done, "providers"
    )


def test_a_key_is_missing(run: Run) -> None:
    table = {"kind": "openai-compatible", "base_url": NOBODY, "api_key_env": "NOT_THERE"}
    run.settings({"mine": table})
    [(said, _)] = wrong(run("doctor", "--json"))
    assert "NOT_THERE is not set" in said


def test_nothing_is_sent_offline(run: Run, ollama: SimulatedServer) -> None:
    done = run("doctor", "--offline", "--json")
    assert done.code == 0
    assert ollama.requests == []


def test_a_setting_is_unknown(run: Run) -> None:
    Path("qwen-embed.toml").write_text("dimension = 1024\n")
    done = run("doctor", "--json")
    assert done.code == 1
    [(said, _)] = wrong(done)
    assert "dimension" in said
    assert "dimensions" in said


def test_a_length_that_the_model_has_not(run: Run) -> None:
    Path("qwen-embed.toml").write_text('model = "qwen3-embedding-0.6b"\ndimensions = 2048\n')
    [(said, _)] = wrong(run("doctor", "--json"))
    assert "dimensions = 2048" in said


@pytest.mark.parametrize("place", ["file/state.db", "folder"])
def test_the_state_cannot_be_written(run: Run, ollama: SimulatedServer, place: str) -> None:
    """Also for root, who may write everywhere: below a file, and where a folder is."""
    Path("file").write_text("")
    Path("folder").mkdir()
    with Path("qwen-embed.toml").open("r+") as file:
        text = file.read()
        file.seek(0)
        file.write(f'state = "{Path(place).absolute()}"\n{text}')
    done = run("doctor", "--json")
    assert done.code == 1
    assert [grade for grade, _, _ in grades(done, "state")] == ["wrong"]
    said, remedy = wrong(done)[0]
    assert place in said
    assert "make it writable" in said + remedy


def test_the_cache_cannot_be_written(run: Run, ollama: SimulatedServer) -> None:
    Path("file").write_text("")
    text = Path("qwen-embed.toml").read_text()
    Path("qwen-embed.toml").write_text(f'cache = "{Path("file/c.db").absolute()}"\n{text}')
    [(said, _)] = wrong(run("doctor", "--json"))
    assert "vectors are not kept" in said


def database_lines(run: Run, **more: Any) -> tuple[int, list[tuple[str, str, str]]]:
    done = run("doctor", "--json", "--offline", **more)
    assert not wrong(done) or done.code == 1
    return done.code, grades(done, "postgres")


def test_an_empty_database(run: Run, database: Database) -> None:
    code, found = database_lines(run)
    assert code == 0
    assert found[0][1].startswith("Postgres ")
    assert found[-1] == (
        "note", "qwen_embed is not installed in it", "`qwen-embed pg install` puts it there"
    )  # fmt: skip


def test_a_server_that_is_down(run: Run) -> None:
    address = "postgresql://someone:pln7ed-k3y-0123456789@127.0.0.1:9/shop"
    code, found = database_lines(run, QWEN_EMBED_DSN=address)
    assert code == 1
    [(grade, said, _)] = found
    assert grade == "wrong"
    assert "127.0.0.1" in said


def test_pgvector_is_old(run: Run, database: Database) -> None:
    run("pg", "install")
    database.execute("UPDATE pg_extension SET extversion = '0.7.4' WHERE extname = 'vector'")
    code, found = database_lines(run)
    assert code == 1
    assert found[1:] == [
        ("wrong", "extension vector 0.7.4 is too old, 0.8 is needed",
         "ALTER EXTENSION vector UPDATE;"),
    ]  # fmt: skip


def installed(run: Run, database: Database) -> None:
    database.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    assert run("pg", "install").code == 0
    arguments = ["--column", "body", "--model", "lexical", "--dimensions", "64"]
    assert run("pg", "create", "docs", *arguments).code == 0


def test_a_table_whose_index_is_missing_invalid_and_there(run: Run, database: Database) -> None:
    installed(run, database)
    code, found = database_lines(run)
    assert code == 0
    build = "`qwen-embed pg index docs` builds it"
    assert ("note", "docs: no index yet, so a search reads all vectors", build) in found
    assert found[-1][:2] == ("note", "no worker runs, 0 changes wait")
    assert run("pg", "index", "docs").code == 0
    code, found = database_lines(run)
    [(index,)] = database.execute(
        "SELECT indexrelid::regclass::text FROM pg_index "
        "WHERE indrelid = 'docs_embedding'::regclass AND NOT indisprimary"
    )
    assert ("ok", f"docs: index {index}", "") in found
    database.execute(
        f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{index}'::regclass"
    )
    code, found = database_lines(run)
    assert code == 1
    [(_, said, remedy)] = [one for one in found if one[0] == "wrong"]
    assert said == f"docs: its index {index} is invalid, a build was interrupted"
    assert remedy == f"{build} anew"
    assert run("pg", "index", "docs").code == 0
    assert database_lines(run)[0] == 0


def test_a_table_whose_changes_are_not_captured(run: Run, database: Database) -> None:
    installed(run, database)
    database.execute("ALTER TABLE docs DISABLE TRIGGER USER")
    code, found = database_lines(run)
    assert code == 1
    [(_, said, remedy)] = [one for one in found if one[0] == "wrong"]
    assert said.startswith("docs: broken")
    assert remedy


def test_a_database_of_an_older_schema(run: Run, database: Database) -> None:
    run("pg", "install")
    database.execute("DELETE FROM qwen_embed.migration WHERE number = 3")
    code, found = database_lines(run)
    assert code == 1
    assert "pg install" in found[-1][1]


ADVICE: list[tuple[str, Machine, str, str]] = [
    ("qwen3-embedding-8b", Machine(64.0, True), "ok", ""),
    ("qwen3-embedding-8b", Machine(64.0, False), "note", f"take {SMALLEST} here"),
    ("qwen3-embedding-8b", Machine(2.0, False), "note", "too little: take"),
    ("qwen3-embedding-8b", Machine(4.0, True), "note", "too little: take"),
    (SMALLEST, Machine(2.0, False), "ok", ""),
]


@pytest.mark.parametrize(("model", "machine", "grade", "said"), ADVICE)
def test_what_a_machine_is_told(model: str, machine: Machine, grade: str, said: str) -> None:
    [one] = of_machine(model, machine)
    assert one.grade == grade
    assert said in one.remedy


def test_a_machine_that_does_not_tell_is_told_nothing() -> None:
    found: list[Any] = list(of_machine("qwen3-embedding-8b", Machine(None, False)))
    assert found == []
