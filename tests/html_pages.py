"""What holds for every page that is written for a browser."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

VOID = {"meta", "link"}
ALLOWED = {
    "html", "head", "meta", "link", "title", "style", "body", "script", "footer", "section",
    "h1", "h2", "h3", "p", "b", "small", "span", "div", "dl", "dt", "dd", "ul", "li", "a",
    "table", "thead", "tbody", "tr", "th", "td", "details", "summary", "figure", "figcaption",
    "svg", "rect", "path",
}  # fmt: skip
POLICY = (
    "default-src 'none'; style-src 'sha256-{}'; img-src data:; base-uri 'none'; form-action 'none'"
)


class Page(HTMLParser):
    """A page, read strictly: each element is closed where it must be, and is one of ours."""

    def __init__(self, written: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self._texts: list[str] = []
        self.style = self.samples = ""
        self.feed(written)
        self.close()
        assert self._open == []

    @property
    def text(self) -> str:
        """What a reader reads, one piece a line."""
        return "\n".join(self._texts)

    def of(self, element: str, /, **wanted: str) -> list[dict[str, str | None]]:
        """The attributes of all elements of a kind, with these among them."""
        return [
            found
            for tag, found in self.elements
            if tag == element and wanted.items() <= found.items()
        ]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ALLOWED, tag
        assert len(dict(attrs)) == len(attrs), attrs
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        inside = self._open[-1] if self._open else ""
        if inside == "style":
            self.style += data
        elif inside == "script":
            self.samples += data
        elif data.strip():
            assert self._open, data
            self._texts.append(data.strip())


def checked(written: str) -> Page:
    """The page, once it is known to be well-formed, to ask for nothing and to run nothing."""
    page = Page(written)
    for tag, found in page.elements:
        assert not [name for name in found if name.startswith("on") or name in ("style", "src")]
        href = found.get("href")
        assert href is None or href == "data:," or href.startswith("#"), href
        if tag == "script":
            assert found == {"type": "application/json", "id": "samples"}
    links = [found["href"] for found in page.of("a")]
    assert {f"#{found.get('id')}" for _, found in page.elements} >= set(links)
    assert not re.search(r"url\(|@import", page.style)
    digest = base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode()
    [policy] = page.of("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"] == POLICY.format(digest)
    assert page.of("meta", name="viewport", content="width=device-width, initial-scale=1")
    assert "prefers-color-scheme: dark" in page.style
    return page
