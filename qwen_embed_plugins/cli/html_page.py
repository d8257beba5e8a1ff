"""Pages for a browser: one file that holds all it shows, asks for nothing and runs nothing. Pure.

What is put into an element is escaped, unless an element of ours gave it: a name or an error cannot
become markup by an oversight.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from typing import NamedTuple

from qwen_embed_plugins._version import __version__
from qwen_embed_plugins.cli.amounts import moment_text

_UNSEEN = {
    place: "\ufffd"
    for places in (
        (0, 9),
        (11, 32),
        (127, 160),
        (0x202A, 0x202F),
        (0x2066, 0x206A),
        (0xD800, 0xE000),
    )
    for place in range(*places)
}
"""Control characters, those included that would turn the direction of what follows a name, and
halves of characters."""


class Html(str):
    """Text that is HTML already; any other is escaped where it is put in."""

    __slots__ = ()


def element(name: str, *inside: object, **attributes: object) -> Html:
    """An element. `class_` is the attribute class, `aria_label` is aria-label; None is left out.

    >>> element("td", "a < b", class_="number")
    '<td class="number">a &lt; b</td>'
    """
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_escaped(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{said}>{joined(inside)}</{name}>")


def joined(parts: Iterable[object]) -> Html:
    """Several parts, one after another; None is nothing."""
    return Html("".join(_html(part) for part in parts if part is not None))


def _html(part: object) -> str:
    return part if isinstance(part, Html) else _escaped(part)


def _escaped(value: object) -> str:
    return escape(str(value).translate(_UNSEEN))


def marker(kind: str) -> str:
    """How every page of a kind begins, by which its own command knows it again."""
    return f"<!doctype html>\n<!-- {kind} -->\n"


def page(kind: str, title: str, now: float, *content: object) -> str:
    """The whole page that the command `kind` writes, as of `now` (seconds since the epoch)."""
    head = _HEAD.format(hash=_style_hash(), title=_escaped(title), style=_style())
    foot = element("footer", f"As of {moment_text(now)}; all times are UTC. {kind}, {__version__}.")
    body = element("body", element("h1", title), *content, foot)
    return f'{marker(kind)}<html lang="en">\n{head}\n{body}\n</html>\n'


# The style goes in by its hash: no style that a text might bring along would count. Without an icon
# of its own a page makes browsers ask its server for one.
_HEAD = """<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; \
style-src 'sha256-{hash}'; img-src data:; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="robots" content="noindex">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>"""


@cache
def _style() -> str:
    return files("qwen_embed_plugins").joinpath("data", "page.css").read_text("utf-8")


def _style_hash() -> str:
    return base64.b64encode(hashlib.sha256(_style().encode()).digest()).decode()


class Tile(NamedTuple):
    """A figure that is seen first."""

    name: str
    value: str
    more: str = ""


def tiles(of: Iterable[Tile]) -> Html:
    """Figures side by side, as many as the screen has room for."""
    return element("dl", *map(_tile, of), class_="tiles")


def _tile(tile: Tile) -> Html:
    more = element("small", tile.more) if tile.more else None
    return element("div", element("dt", tile.name), element("dd", tile.value, more))


def table(titles: Sequence[str], rows: Iterable[Sequence[object]], numbers: Sequence[int]) -> Html:
    """A table, which scrolls by itself where it is wider than the screen; on a phone the cells of a
    row stand below its first. `numbers` are the places of columns that are aligned to the right."""

    def look(place: int) -> str | None:
        return "number" if place in numbers else None

    head = [
        element("th", title, class_=look(place), scope="col") for place, title in enumerate(titles)
    ]
    body = [
        element(
            "tr",
            *(
                element("td", cell, class_=look(place), data_title=titles[place])
                for place, cell in enumerate(cells)
            ),
        )
        for cells in rows
    ]
    whole = element("table", element("thead", element("tr", *head)), element("tbody", *body))
    # To be scrolled by keys it has to take the focus.
    return element("div", whole, class_="scrolls", tabindex="0")
