"""The pages for a browser in a real one: nothing is asked for, nothing is wider than a phone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from qwen_embed_plugins import postgres
from qwen_embed_plugins.amounts import Amount
from qwen_embed_plugins.books import SQLiteBooks
from qwen_embed_plugins.cli import main
from qwen_embed_plugins.meters import use_meter
from tests.wide import browser

if TYPE_CHECKING:
    from tests.postgres_servers import Server

pytestmark = pytest.mark.wide

SCREENS = [(390, "light"), (390, "dark"), (1280, "light"), (1280, "dark")]
NOW = 1_800_000_000.0
LONG = "<script>document.title='run'</script><img src=http://127.0.0.1:1/x>" + "W" * 50


@pytest.fixture(scope="module")
def chromium() -> Iterator[browser.Browser]:
    where = browser.program()
    if where is None:
        pytest.skip("chromium is absent: not on the path (Debian: apt install chromium)")
    with browser.opened(where) as running:
        yield running


@pytest.fixture
def usage() -> Path:
    """The page of a state with long names and huge numbers."""
    Path("qwen-embed.toml").write_text(
        'state = "state.db"\nuse = ["paid"]\n[providers.paid]\nkind = "openai-compatible"\n'
        'base_url = "http://127.0.0.1:1/v1"\nprice_per_million = "0.2"\nusd_per_day = "0.5"\n'
        'free_tokens = 1000000\nfree_until = "2999-12-31"\nrequests_per_day = 5000\n',
        "utf-8",
    )
    offers = [f"{LONG.replace('/', '')}/{LONG}", "paid/qwen3-embedding-8b"]
    path = Path("state.db").absolute()
    with closing(SQLiteBooks(path, lambda: NOW)) as books, books.page() as page:
        for ago in range(100):
            for offer in offers:
                meter = use_meter("paid", offer)
                key = meter.held_key(NOW - 86_400 * ago)
                page.book(key, Amount(10**15, 10**16 + ago * 10**14, 10**16))
    assert main(["usage", "--quiet", "--html", "usage.html"]) == 0
    return Path("usage.html")


@pytest.fixture
def status(postgres_server: Server) -> Iterator[Path]:
    """The page of a database with long names, after some looks."""
    with postgres_server.database("template1") as name:
        address = postgres_server.dsn(name)
        postgres.install(address)
        with psycopg.connect(address, autocommit=True) as connection:
            for table in ("docs", LONG[:60]):
                quoted = connection.execute("SELECT quote_ident(%s)", [table]).fetchall()[0][0]
                connection.execute(f"CREATE TABLE {quoted} (id int PRIMARY KEY, body text)")
                connection.execute(
                    f"INSERT INTO {quoted} SELECT n, 'x' FROM generate_series(1, 9) n"
                )
                postgres.create_vectorizer(
                    address, quoted, columns=["body"], model="lexical", dimensions=1024, name=table
                )
            connection.execute(f'DROP TABLE "{LONG[:60]}" CASCADE')
        for _ in range(3):
            assert main(["pg", "status", "--dsn", address, "--quiet", "--html", "status.html"]) == 0
        yield Path("status.html")


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
@pytest.mark.parametrize("page", ["usage", "status"])
def test_a_page_fits_and_asks_for_nothing(
    request: pytest.FixtureRequest, chromium: browser.Browser, page: str, width: int, scheme: str
) -> None:
    seen = chromium.look(request.getfixturevalue(page), width=width, scheme=scheme)
    assert seen.inner_width == width
    assert seen.scroll_width <= seen.inner_width
    assert seen.cut == []
    assert seen.requests == []
    assert seen.said == []  # what its policy refuses, a browser says
    red, *_ = (int(part) for part in seen.paper[4:-1].split(","))
    assert (red > 200) == (scheme == "light")


def test_what_is_looked_for_would_be_found(chromium: browser.Browser) -> None:
    """A page that does all of it: otherwise nothing found would mean nothing."""
    Path("bad.html").write_text(
        "<!doctype html><meta name=viewport content='width=device-width'>"
        "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; img-src *\">"
        "<p style='width: 900px'>wide</p><img src='http://127.0.0.1:1/x'>",
        "utf-8",
    )
    seen = chromium.look(Path("bad.html"), width=390)
    assert seen.requests == ["http://127.0.0.1:1/x"]
    assert any("style" in said for said in seen.said)
    Path("bad.html").write_text("<!doctype html><p style='width: 900px'>wide</p>", "utf-8")
    seen = chromium.look(Path("bad.html"), width=1280)
    assert seen.cut == []
    Path("bad.html").write_text(
        "<!doctype html><meta name=viewport content='width=device-width,minimum-scale=1'>"
        "<p style='width: 900px'>wide</p>",
        "utf-8",
    )
    seen = chromium.look(Path("bad.html"), width=390)
    assert seen.scroll_width > 390
    assert len(seen.cut) == 1
