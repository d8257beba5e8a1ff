"""Pages that are made from the package's data are those that it would make now."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.generate import FOLDER, PAGES
from docs.generators import settings, sql
from docs.generators.providers import answers
from qwen_embed_plugins.offers import Offer
from qwen_embed_plugins.plugins import load_plugins
from qwen_embed_plugins.provider_settings import PROVIDER
from qwen_embed_plugins.providers import _catalogue
from qwen_embed_plugins.setting_list import known_settings
from qwen_embed_plugins.setting_meanings import (
    BUDGET_MEANINGS,
    OPTION_MEANINGS,
    PROVIDER_MEANINGS,
    TOP_LEVEL_MEANINGS,
)
from qwen_embed_plugins.settings import BUDGET, NOT_SETTINGS, TOP_LEVEL
from tests.benchmarks import scale

MADE = PAGES["providers"]()
ROOT = Path(__file__).parent.parent
REFERENCE = {name for names in sql.FUNCTIONS.values() for name in names}
SCALE = (ROOT / "docs" / "scale.md").read_text("utf-8")


@pytest.mark.parametrize(
    "path", [*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md")], ids=lambda path: path.name
)
def test_nothing_is_still_to_be_filled_in(path: Path) -> None:
    left = re.findall(r"^[A-Z]{4,}$|TODO|FIXME|XXX", path.read_text("utf-8"), re.MULTILINE)
    assert left == []


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_not_stale(name: str) -> None:
    assert (FOLDER / f"{name}.md").read_text("utf-8") == PAGES[name](), "run `make docs`"


@pytest.mark.parametrize("provider", [name for name in _catalogue.providers() if name != "lexical"])
def test_the_page_tells_the_terms_of_every_provider(provider: str) -> None:
    section = MADE.split(f"\n## {provider}\n")[1].split("\n## ")[0]
    for offer in _catalogue.offers_of(provider):
        assert f"| {offer.model} | `{offer.wire_name}` |" in section
        for source in offer.sources.values():
            assert source.url in section
        if _doubtful(offer):
            assert "Verified by nobody: " in section


def _doubtful(offer: Offer) -> bool:
    return any(not source.verified for source in offer.sources.values())


def test_a_limit_that_nobody_verified_has_a_star() -> None:
    section = MADE.split("\n## scaleway\n")[1].split("\n## ")[0]
    limits = "20 requests a minute\\*, not enforced; 50 requests a day\\*, not enforced"
    assert f"32k tokens a text; {limits}" in section
    assert "\n- to claim the grant: free = true in [providers.scaleway]\n" in section
    verified = MADE.split("\n## cloudflare\n")[1].split("\n## ")[0]
    assert "3,000 requests a minute;" in verified.replace(" |", ";")


def test_refusals_are_shown_with_the_fault_and_their_source(tmp_path: Path) -> None:
    (tmp_path / "one.toml").write_text(
        '[[error]]\nname = "wrong key"\nstatus = 401\nkind = "bad_key"\nsource = "its docs"\n'
        'json = { error = { code = "no|key, `x`" } }\n'
        '[[error]]\nname = "overload"\nstatus = 503\nkind = "unavailable"\nsource = "an issue"\n'
        f'body = "<html>\\n{"x" * 500}"\n',
        "utf-8",
    )
    (tmp_path / "two.toml").write_text('like = "one"\n', "utf-8")
    told = list(answers("one", tmp_path))
    refused = """`401 {"error": {"code": "no\\|key, 'x'"}}`"""
    assert f"| wrong key | {refused} | bad_key | its docs |" in told
    assert any("| `503 <html> xxx" in row and "x…` | unavailable |" in row for row in told)
    assert list(answers("two", tmp_path)) == told
    assert list(answers("nobody", tmp_path)) == []


@pytest.mark.parametrize("title", scale.TABLES)
def test_the_page_of_scale_shows_what_its_model_prints(
    title: str, capsys: pytest.CaptureFixture[str]
) -> None:
    scale.run()
    printed = capsys.readouterr().out.split(f"{title}\n\n")[1].split("\n\n")[0]
    assert f"\n\n{printed}\n\n" in SCALE, "put in what `python -m tests.benchmarks scale` prints"


def test_every_setting_is_described_and_nothing_else_is() -> None:
    assert TOP_LEVEL_MEANINGS.keys() == TOP_LEVEL.keys() - {"budget", "providers"}
    assert BUDGET_MEANINGS.keys() == BUDGET.keys()
    assert PROVIDER_MEANINGS.keys() == PROVIDER.keys()
    providers = load_plugins(found=()).providers.items()
    options = {name: set(known.provider.options) for name, known in providers}
    options = {name: own for name, own in options.items() if own}
    assert options == {name: set(meanings) for name, meanings in OPTION_MEANINGS.items()}


def test_the_page_of_settings_has_each_with_what_it_may_be() -> None:
    page = settings.page()
    for setting in known_settings():
        assert setting.expected
        assert f"| `{setting.key}`" in page
        assert setting.variable is None or f"| `{setting.variable}` |" in page
    for variable in NOT_SETTINGS:
        assert f"| `QWEN_EMBED_{variable}` |" in page
    assert "| a proxy such as http://" in page, "more than that it is a string"


@pytest.mark.parametrize(
    "path", [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"], ids=lambda path: path.name
)
def test_the_sql_reference_has_every_function_that_pages_call(path: Path) -> None:
    called = set(re.findall(r"qwen_embed\.(\w+)\(", path.read_text("utf-8")))
    assert called <= REFERENCE


def test_the_sql_reference_has_every_function_that_is_named_as_public() -> None:
    guide = (ROOT / "docs" / "postgres.md").read_text("utf-8")
    table = guide.split("| what | SQL | command |\n|---|---|---|\n")[1].split("\n\n")[0]
    named = set(re.findall(r"`(\w+)\(", table))
    folder = (ROOT / "sql" / "README.md").read_text("utf-8")
    public = folder.split("Public are ")[1].split("everything else")[0]
    assert named
    assert named <= REFERENCE
    assert set(re.findall(r"`(\w+)`", public)) == {*REFERENCE, *sql.VIEWS}
    # What owners of tables call, and workers may not.
    rights = (ROOT / "sql" / "functions" / "065_grants.sql").read_text("utf-8")
    kept = rights.split("'pause_because')) AND p.proname NOT IN (")[1].split(")")[0]
    assert set(re.findall(r"'(\w+)'", kept)) <= REFERENCE


@pytest.mark.parametrize("name", [*PAGES, "scale"])
def test_the_readme_leads_to_the_page(name: str) -> None:
    assert f"(docs/{name}.md)" in (ROOT / "README.md").read_text("utf-8")


def test_the_messages_of_the_troubleshooting_page_are_ours() -> None:
    """Each piece of a quoted message, "…" standing for what differs, is in our sources, or is a
    word of the status view."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    table = page.partition("|---|---|---|\n")[2].partition("\n\n")[0]
    sources = "\n".join(
        path.read_text("utf-8")
        for folder, pattern in (("qwen_embed_plugins", "**/*.py"), ("sql", "**/*.sql"))
        for path in sorted((ROOT / folder).glob(pattern))
    )
    # A literal that goes on in the next line is one message.
    sources = re.sub(r'"\n\s*f?"', "", sources)
    missing = [
        piece
        for row in table.splitlines()
        for quoted in re.findall(r"`([^`]+)`", row.split(" | ")[0])
        for piece in re.split(r"\s*…\s*", quoted)
        if piece not in sources
    ]
    assert not missing
