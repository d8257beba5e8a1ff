"""Bars and curves as inline SVG. Pure.

A drawing is stretched to the room it has, and lettered by HTML beside it: letters inside of it
would shrink with it on a phone. Places are attributes, since the page allows no style of its own to
an element.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timezone
from typing import NamedTuple

from qwen_embed_plugins.cli.html_page import Html, element, joined

WIDTH, HEIGHT = 1000, 100
"""In units of the drawing, whatever room it gets."""

LOW = 5
"""One part in so many left is little."""

FEWEST_PLACES = 7
"""Columns are no wider than if there were so many."""

SHORT_SPAN = 900.0
"""In so few seconds minutes do not tell the ends of an axis apart."""

Label = Callable[[float], str]


def left_bar(title: str, words: str, *, left: int, held: int, limit: int) -> Html:
    """What is left of a limit, what is held, and the rest: used."""
    full, hold = _width(left, limit), _width(held, limit)
    hold = min(hold, WIDTH - full)
    look = "fill-low" if left * LOW < limit else "fill-left"
    drawing = _drawing(
        _swatch("fill-used"),
        _rect(0, 0, full, HEIGHT, class_=look),
        _rect(full, 0, hold, HEIGHT, class_="fill-held"),
        _swatch("edge-bad") if left <= 0 else None,
    )
    return _bar(title, drawing, words)


def share_bar(title: str, words: str, *, part: int, whole: int) -> Html:
    """A part of a whole, or of the largest of several."""
    drawing = _drawing(
        _swatch("fill-used"),
        _rect(0, 0, _width(part, whole), HEIGHT, class_="fill-amount"),
    )
    return _bar(title, drawing, words)


def legend(entries: Iterable[tuple[str, str]]) -> Html:
    """What the colours of bars stand for: (class of the fill, words)."""
    return element(
        "ul",
        *(element("li", _drawing(_swatch(look)), words) for look, words in entries),
        class_="key",
    )


def _bar(title: str, drawing: Html, words: str) -> Html:
    said = element("p", words, class_="faint")
    return element("div", element("p", element("b", title)), drawing, said, class_="bar")


def _width(part: int, whole: int) -> int:
    """Seen if it is there at all, and full only if it is."""
    if part <= 0 or whole <= 0:
        return 0
    return WIDTH if part >= whole else max(6, min(WIDTH - 6, part * WIDTH // whole))


class Bar(NamedTuple):
    """A column of a chart: what it stands for, how high it is, and what is said of it."""

    name: str
    value: float
    words: str


def columns_chart(title: str, bars: Sequence[Bar], label: Label) -> Html:
    """Columns side by side, the newest at the right; each tells its words when it is pointed at."""
    if not bars:
        return _without(title, "nothing yet")
    top = round_above(max(bar.value for bar in bars))
    wide = WIDTH / max(FEWEST_PLACES, len(bars))
    first = WIDTH - wide * len(bars)
    drawn = joined(
        element(
            "rect",
            element("title", f"{bar.name}: {bar.words}"),
            x=_n(first + wide * place + wide * 0.1),
            width=_n(wide * 0.8),
            **_upright(bar.value, top),
            class_="fill-amount",
        )
        for place, bar in enumerate(bars)
        if bar.value > 0
    )
    ends = [bars[0].name, bars[-1].name] if len(bars) > 1 else [bars[0].name]
    last = f"{bars[-1].name}: {bars[-1].words}"
    return _figure(title, last, drawn, top, label, ends)


def _upright(value: float, top: float) -> dict[str, str]:
    height = max(1.0, HEIGHT * value / top)  # a little is not nothing
    return {"y": _n(HEIGHT - height), "height": _n(height)}


class Point(NamedTuple):
    """A value at a moment (seconds since the epoch); None where nobody looked."""

    at: float
    value: float | None


def line_chart(title: str, points: Sequence[Point], label: Label, *, least: float = 0) -> Html:
    """A curve over time, with gaps where there is no value. The scale goes to `least` at least."""
    known = [point for point in points if point.value is not None]
    if not known:
        return _without(title, "no samples yet")
    begin, end = known[0].at, known[-1].at
    top = round_above(max(least, *(point.value or 0 for point in known)))

    def place(at: float) -> float:
        return WIDTH * (at - begin) / (end - begin) if end > begin else WIDTH

    drawn = joined(_stretch(run, place, top) for run in _runs(points))
    ends = [_clock(at, end - begin) for at in dict.fromkeys((begin, end))]
    return _figure(title, f"{label(known[-1].value or 0)} now", drawn, top, label, ends)


def _clock(at: float, span: float) -> str:
    """A moment in UTC as exact as an axis of so many seconds needs it; the page says its year."""
    form = "%H:%M:%S" if 0 < span < SHORT_SPAN else "%m-%d %H:%M"
    return datetime.fromtimestamp(at, timezone.utc).strftime(form)


def _runs(points: Iterable[Point]) -> Iterator[list[tuple[float, float]]]:
    run: list[tuple[float, float]] = []
    for point in points:
        if point.value is not None:
            run.append((point.at, point.value))
        elif run:
            yield run
            run = []
    if run:
        yield run


def _stretch(
    run: Sequence[tuple[float, float]], place: Callable[[float], float], top: float
) -> Html:
    spots = [(_n(place(at)), _n(HEIGHT - HEIGHT * value / top)) for at, value in run]
    if len(spots) == 1:
        [(x, y)] = spots
        return element("path", d=f"M{x} {y}h0", class_="dot", vector_effect="non-scaling-stroke")
    line = "L".join(f"{x} {y}" for x, y in spots)
    area = f"M{spots[0][0]} {HEIGHT}L{line}L{spots[-1][0]} {HEIGHT}Z"
    return joined(
        (
            element("path", d=area, class_="area"),
            element("path", d=f"M{line}", class_="line", vector_effect="non-scaling-stroke"),
        )
    )


def _figure(
    title: str, last: str, drawn: Html, top: float, label: Label, ends: Sequence[str]
) -> Html:
    lines = "".join(f"M0 {y}H{WIDTH}" for y in (0, HEIGHT // 2, HEIGHT))
    grid = element("path", d=lines, class_="grid", vector_effect="non-scaling-stroke")
    words = f"{title}: {last}; the scale goes to {label(top)}"
    scale = element(
        "div", *(element("span", label(value)) for value in (top, top / 2, 0)), class_="scale"
    )
    plot = element(
        "div",
        scale,
        _drawing(grid, drawn, role="img", aria_label=words),
        element("div", *(element("span", end) for end in ends), class_="ends"),
        class_="plot",
    )
    return element("figure", _caption(title, last), plot)


def _without(title: str, why: str) -> Html:
    return element("figure", _caption(title, why))


def _caption(title: str, said: str) -> Html:
    return element("figcaption", element("b", title), element("span", said))


def _drawing(*inside: object, **attributes: object) -> Html:
    if "role" not in attributes:
        attributes["aria_hidden"] = "true"  # the words beside it say the same
    box = f"0 0 {WIDTH} {HEIGHT}"
    return element("svg", *inside, viewBox=box, preserveAspectRatio="none", **attributes)


def _rect(x: int, y: int, width: int, height: int, **attributes: object) -> Html:
    return element("rect", x=x, y=y, width=width, height=height, **attributes)


def _swatch(look: str) -> Html:
    """All of a drawing."""
    return _rect(0, 0, WIDTH, HEIGHT, class_=look, vector_effect="non-scaling-stroke")


def _n(value: float) -> str:
    """A place in a drawing, to the tenth of a unit: a long series is most of a page."""
    return f"{value:.1f}".rstrip("0").rstrip(".")


def round_above(value: float) -> float:
    """The end of a scale, not below the value: a round number, and so is its half.

    >>> round_above(0), round_above(3), round_above(1700), round_above(0.05)
    (1.0, 4.0, 2000.0, 0.06)
    """
    if value <= 0:
        return 1.0
    exponent = math.floor(math.log10(value))
    steps = (float(f"{step}e{exponent}") for step in (1, 2, 4, 6, 8, 10))
    return next(step for step in steps if step >= value)


def figure(count: int) -> str:
    """A count that is read, as long as a tile has room for it.

    >>> figure(42_124_822), figure(12_345_678_901)
    ('42,124,822', '12.3G')
    """
    return f"{count:,}" if count < 10**9 else short(count)


def short(value: float) -> str:
    """A number in little room.

    >>> short(0.5), short(2500), short(250_000), short(999_999), short(5e9), short(1e30)
    ('0.5', '2,500', '250k', '1M', '5G', '1e+30')
    """
    if abs(value) < 10_000:
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    value = float(f"{value:.3g}")  # first, or 999,999 would be a thousand thousands
    for power, sign in ((18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if value >= 10.0**power:
            count = value / 10.0**power
            return f"{count:.3g}{sign}" if count < 1000 else f"{value:.2g}"
    return f"{value:.3g}"
