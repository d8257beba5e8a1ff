"""Writes the pages that are made from the package's own data (`make docs`).

Each has a module in `docs/generators/`. A test fails when a page is stale.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from docs.generators import providers, settings, sql

FOLDER = Path(__file__).parent

PAGES: Mapping[str, Callable[[], str]] = {
    "providers": providers.page,
    "settings": settings.page,
    "sql": sql.page,
}
"""By the name of the file, without its ending."""

if __name__ == "__main__":
    for name, page in PAGES.items():
        (FOLDER / f"{name}.md").write_text(page(), encoding="utf-8")
