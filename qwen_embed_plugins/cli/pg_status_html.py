"""The page of `qwen-embed pg status`: what waits, how fast it goes and how long it takes. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from qwen_embed_plugins.cli.database import age_text, counted, size_text
from qwen_embed_plugins.cli.html_charts import Point, figure, line_chart, share_bar, short
from qwen_embed_plugins.cli.html_page import Html, Tile, element, page, table, tiles
from qwen_embed_plugins.cli.samples import Figures, History, dumped, loaded
from qwen_embed_plugins.cli.sql_hints import as_commands
from qwen_embed_plugins.errors import without_secrets

if TYPE_CHECKING:
    from qwen_embed_plugins.cli.pg_status import Look
    from qwen_embed_plugins.postgres import IndexFigures, VectorizerStatus

LONGEST_ERROR = 600

STATES: Mapping[str, tuple[str, str]] = {
    "active": ("good", "in step, or on the way"),
    "backfill": ("busy", "rows from before the vectorizer are being gone through"),
    "paused": ("quiet", "changes are recorded; pg resume goes on"),
    "suspended": ("quiet", "columns may change; pg resume goes on"),
    "retired": ("quiet", "another one serves in its place"),
    "held": ("low", "no offer can serve now; it goes on by itself"),
    "blocked": ("bad", "somebody has to change something first"),
    "broken": ("bad", "changes are not captured"),
}
"""The colour of a state, and what it means."""

_SAMPLES = '<script type="application/json" id="samples">'


class IndexText(NamedTuple):
    """The index of a vectorizer in words. `is_due`: it is wanted and does not stand."""

    words: str
    is_due: bool


def index_text(figures: IndexFigures) -> IndexText:
    """Whether the index stands."""
    if figures.index_kind == "none":
        return IndexText("none wanted", is_due=False)
    if figures.index is None:
        return IndexText(f"{figures.index_kind}, not built yet", is_due=True)
    size = size_text(figures.size_bytes or 0)
    return IndexText(f"{figures.index} ({figures.index_kind}, {size})", is_due=False)


def history_in(written: str) -> History:
    """What a page of ours carries. Raises ValueError if it cannot be read."""
    return loaded(written.partition(_SAMPLES)[2].partition("</script>")[0])


def status_page(
    kind: str, found: Sequence[Look], indexes: Mapping[str, IndexText], history: History
) -> str:
    """The whole page that the command `kind` writes; the last of the samples is of now."""
    return page(
        kind,
        "Vectorizers",
        history.samples[-1].at,
        element("p", f"Database {history.database}", class_="faint"),
        element("p", _samples_text(len(history.samples)), class_="faint"),
        # Of a single one its own card says it.
        tiles(_tiles(found)) if len(found) != 1 else None,
        *_idle(found),
        *_overview(found),
        *(
            _card(place, look, indexes[look.status.name], history)
            for place, look in enumerate(found)
        ),
        Html(f"{_SAMPLES}{dumped(history)}</script>"),
    )


def _samples_text(count: int) -> str:
    if count == 1:
        return "Charts begin here: each run of this command with the same file adds a sample."
    return f"Charts of {count} samples; each run of this command with the same file adds one."


def _tiles(found: Sequence[Look]) -> Iterator[Tile]:
    dead = sum(look.status.dead for look in found)
    to_walk = sum(look.progress.to_walk for look in found)
    speed = sum(look.progress.rows_per_second for look in found)
    tokens = sum(look.progress.tokens_per_second for look in found)
    yield Tile("Vectorizers", f"{len(found)}" if found else "none yet")
    ahead = f"and about {figure(to_walk)} ahead of walks" if to_walk else ""
    yield Tile("Pending rows", figure(sum(look.status.pending for look in found)), ahead)
    yield Tile("Rows a second", short(speed), f"{short(tokens)} tokens")
    yield Tile("Dead rows", figure(dead), "see qwen-embed pg dead" if dead else "")


def _idle(found: Sequence[Look]) -> Iterator[Html]:
    names = ", ".join(look.status.name for look in found if look.is_idle)
    if names:
        words = f"No worker is running for {names}. Start one: qwen-embed pg worker"
        yield element("p", words, class_="note")


def _overview(found: Sequence[Look]) -> Iterator[Html]:
    """For several: what one looks for first, with a way to the rest of it."""
    if len(found) < 2:
        return
    yield table(
        ("Name", "State", "Pending", "Dead", "Rows/s", "Left"),
        [
            (
                element("a", look.status.name, href=f"#v{place}"),
                _state(look.status.state),
                f"{look.status.pending:,}",
                f"{look.status.dead:,}",
                short(look.progress.rows_per_second) if look.progress.workers else "",
                _time_left(look),
            )
            for place, look in enumerate(found)
        ],
        (2, 3, 4, 5),
    )


def _state(state: str) -> Html:
    return element("span", state, class_=f"state {STATES.get(state, ('quiet', ''))[0]}")


def _card(place: int, look: Look, index: IndexText, history: History) -> Html:
    status, progress = look
    return element(
        "section",
        element("h2", status.name, " ", _state(status.state)),
        element("p", _meaning(status.state), class_="faint"),
        element("p", _described(status), class_="faint"),
        _error(as_commands(status.last_error)) if status.last_error else None,
        tiles(_figures(look)),
        _walk(progress.walked, progress.to_walk) if progress.to_walk else None,
        element("p", element("b", "Index: "), _index(index)),
        _charts(status.name, history),
        class_="card",
        id=f"v{place}",
    )


def _meaning(state: str) -> str:
    words = STATES.get(state, ("", ""))[1]
    return f"{words[:1].upper()}{words[1:]}."


def _described(status: VectorizerStatus) -> str:
    into = "" if status.target == status.source else f" into {status.target}"
    return f"{status.source}{into}, {status.model}/{status.dimensions}"


def _error(message: str) -> Html:
    said = without_secrets(message)
    if len(said) > LONGEST_ERROR:
        said = said[: LONGEST_ERROR - 1] + "…"
    return element("p", element("b", "Last error: "), said, class_="error")


def _figures(look: Look) -> Iterator[Tile]:
    status, progress = look
    yield Tile("Pending", figure(status.pending), f"{figure(status.leased)} leased")
    yield Tile("Dead", figure(status.dead), "see qwen-embed pg dead" if status.dead else "")
    yield Tile("Lag", age_text(status.lag) or "none")
    speed = f"{short(progress.rows_per_second)} rows/s"
    workers = counted(progress.workers, "worker")
    if progress.workers:
        yield Tile("Speed", speed, f"{short(progress.tokens_per_second)} tokens/s, {workers}")
    else:
        yield Tile("Speed", "–", "no worker")
    yield Tile("Time left", _time_left(look))


def _time_left(look: Look) -> str:
    left = look.progress.time_left
    if left is None:
        return "not known"
    return age_text(left) if left else "in step"


def _walk(walked: int, to_walk: int) -> Html:
    about = walked + to_walk
    words = f"{walked:,} of about {about:,} rows gone through"
    return share_bar("Walk over the rows", words, part=walked, whole=about)


def _index(index: IndexText) -> Html:
    return element("span", index.words, class_="low" if index.is_due else None)


def _charts(name: str, history: History) -> Html:
    def points(value: Callable[[Figures], float]) -> list[Point]:
        known = ((sample.at, sample.figures.get(name)) for sample in history.samples)
        return [Point(at, None if one is None else value(one)) for at, one in known]

    return element(
        "div",
        line_chart("Rows to do", points(lambda one: one.to_do), short, least=2),
        line_chart("Rows a second", points(lambda one: one.rows_per_second), short),
        class_="charts",
    )
