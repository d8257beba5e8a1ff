"""Every block of `docs/langchain.md` is run, in order and in one namespace, as a reader would."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from qwen_embed_plugins import postgres
from qwen_embed_plugins.testing import reference_tokens
from tests.documents import blocks_of

if TYPE_CHECKING:
    from qwen_embed_plugins.testing import SimulatedServer
    from tests.postgres_servers import Server

PAGE = Path(__file__).parents[2] / "docs" / "langchain.md"
TEXT = PAGE.read_text("utf-8")
BLOCKS = blocks_of(TEXT)


@pytest.fixture
def shop(database: Any, server: SimulatedServer) -> Any:
    """The table of the page, embedded."""
    database.execute(
        "CREATE TABLE products (id int PRIMARY KEY, name text, description text, category text)",
        "INSERT INTO products VALUES (1, 'Parka', 'For the mountains', 'outdoor'), "
        "(2, 'Sandals', 'For the beach', 'summer'), (3, 'Tent', 'For nights', 'outdoor'), "
        "(4, 'Lamp', 'For a desk', 'home')",
    )
    postgres.install(database.address)
    postgres.create_vectorizer(
        database.address,
        "products",
        columns=["name", "description"],
        model="qwen3-embedding-0.6b",
        dimensions=1024,
    )
    settings = {"providers": {"ollama": {"base_url": server.url}}, "use": ["ollama"]}
    postgres.run_worker(database.address, once=True, settings=settings)
    return database


def test_every_block_is_python() -> None:
    assert {block.language for block in BLOCKS} == {"python"}
    assert {block.heading for block in BLOCKS} == {
        "Embeddings",
        "What it cost",
        "The retriever",
        "PGVectorStore over such a table",
    }


def test_every_block_runs(
    shop: Any,
    server: SimulatedServer,
    postgres_server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", server.url)
    name = shop.execute("SELECT current_database()")[0][0]
    of_sqlalchemy = postgres_server.uri(name).replace("postgresql:", "postgresql+psycopg:")
    printed: dict[str, str] = {}
    names: dict[str, Any] = {}
    for block in BLOCKS:
        code = block.text.replace("postgresql://localhost/shop", shop.address)
        code = code.replace("postgresql+psycopg://localhost/shop", of_sqlalchemy)
        exec(code, names)  # noqa: S102  the page's own block
        printed[block.heading] = printed.get(block.heading, "") + capsys.readouterr().out
    embedded = printed["Embeddings"].splitlines()
    assert embedded[0] in ("The night train leaves at nine.", "Bread needs time.")
    assert embedded[-1] == "2 of 2"
    assert "Instruct: Given an ingredient, find recipes\nQuery:bread" in server.texts_seen
    last, tracked = printed["What it cost"].splitlines()
    assert last == f"{reference_tokens('one') + reference_tokens('two')} 0"
    assert re.fullmatch(r"3 \d+ 0", tracked)
    retrieved = printed["The retriever"]
    assert "For a desk" not in retrieved.split("Answer from:")[0], "the filter leaves it out"
    assert "What is warm?" in retrieved
    stored = printed["PGVectorStore over such a table"].splitlines()
    assert len(stored) == 2 * 2  # a text has two lines
    assert all("'outdoor'" in line for line in stored if "{" in line)
    engine = names["engine"]
    engine._run_as_sync(engine.close())


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", TEXT))
def test_links_lead_somewhere(link: str) -> None:
    assert (PAGE.parent / link).exists()
