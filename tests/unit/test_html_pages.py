"""Pages for a browser, and their drawings: pure functions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import date, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_embed_plugins.amounts import Amount
from qwen_embed_plugins.books import Count
from qwen_embed_plugins.cli.html_charts import (
    HEIGHT,
    WIDTH,
    Bar,
    Point,
    columns_chart,
    left_bar,
    line_chart,
    round_above,
    share_bar,
    short,
)
from qwen_embed_plugins.cli.html_page import element, joined, page, table
from qwen_embed_plugins.cli.pg_status import Look
from qwen_embed_plugins.cli.pg_status_html import (
    LONGEST_ERROR,
    STATES,
    IndexText,
    history_in,
    index_text,
    status_page,
)
from qwen_embed_plugins.cli.samples import (
    FEWEST_SAMPLES,
    KEPT_SECONDS,
    MOST_FIGURES,
    MOST_SAMPLES,
    Figures,
    History,
    Sample,
    dumped,
    loaded,
    with_sample,
)
from qwen_embed_plugins.cli.usage_html import MOST_DAYS, charted_days, usage_page
from qwen_embed_plugins.cli.usage_report import report
from qwen_embed_plugins.meters import Key
from qwen_embed_plugins.postgres import IndexFigures, VectorizerProgress, VectorizerStatus
from qwen_embed_plugins.settings import Settings
from qwen_embed_plugins.setup import Setup
from qwen_embed_plugins.windows import EPOCH
from tests.html_pages import Page, checked

HOSTILE = "</script><script>alert(1)</script><img src=x onerror='alert(2)'>&amp;\"\u202e\x00\ud800"
SEEN = "</script><script>alert(1)</script><img src=x onerror='alert(2)'>&amp;\"\ufffd\ufffd\ufffd"
NOW = 1_800_000_000.0


def drawn(what: str) -> Page:
    return Page(what)


def heights(chart: str) -> list[float]:
    return [float(found["height"] or 0) for found in drawn(chart).of("rect")]


# Elements


def test_whatever_is_put_in_is_escaped() -> None:
    assert element("b", HOSTILE, 3, title='"><i>').count("<") == 2
    assert Page(element("b", HOSTILE)).text == SEEN
    inner = element("i", "<")
    assert element("b", inner) == "<b><i>&lt;</i></b>"
    assert joined([None, inner, "<"]) == "<i>&lt;</i>&lt;"


def test_a_page_has_a_title_and_asks_for_nothing() -> None:
    found = checked(page("qwen-embed usage", HOSTILE, 0, element("p", HOSTILE)))
    assert found.text.count(SEEN) == 3
    assert "As of 1970-01-01; all times are UTC." in found.text


def test_a_table_tells_its_titles_in_each_cell_for_phones() -> None:
    found = drawn(table(("Name", "Count"), [("a", 1), (HOSTILE, 2)], (1,)))
    assert [cell["data-title"] for cell in found.of("td")] == ["Name", "Count"] * 2
    assert [cell.get("class") for cell in found.of("td")] == [None, "number"] * 2


# Drawings


@pytest.mark.parametrize(
    ("left", "held", "limit", "widths"),
    [
        (0, 0, 0, [1000, 0, 0, 1000]),
        (0, 50, 100, [1000, 0, 500, 1000]),
        (100, 0, 100, [1000, 1000, 0]),
        (50, 25, 100, [1000, 500, 250]),
        (1, 0, 10**18, [1000, 6, 0]),
        (10**18 - 1, 1, 10**18, [1000, 994, 6]),
        (60, 90, 100, [1000, 600, 400]),
    ],
)
def test_a_bar_of_what_is_left(left: int, held: int, limit: int, widths: list[int]) -> None:
    found = drawn(left_bar(HOSTILE, HOSTILE, left=left, held=held, limit=limit))
    assert [int(rect["width"] or 0) for rect in found.of("rect")] == widths
    assert found.text.count(SEEN) == 2
    looks = [rect["class"] for rect in found.of("rect")]
    assert looks[1] == ("fill-low" if left * 5 < limit else "fill-left")
    assert ("edge-bad" in looks) == (left == 0)


@pytest.mark.parametrize(("part", "whole", "width"), [(0, 0, 0), (1, 2, 500), (3, 2, 1000)])
def test_a_bar_of_a_share(part: int, whole: int, width: int) -> None:
    assert drawn(share_bar("a", "b", part=part, whole=whole)).of("rect")[1]["width"] == str(width)


def test_no_column_one_and_many() -> None:
    assert drawn(columns_chart("Tokens", [], short)).text == "Tokens\nnothing yet"
    one = columns_chart("Tokens", [Bar("2026-01-01", 3, HOSTILE)], short)
    assert heights(one) == [75]
    assert [rect["x"] for rect in drawn(one).of("rect")] == ["871.4"]  # the newest at the right
    assert drawn(one).text.splitlines()[:5] == ["Tokens", f"2026-01-01: {SEEN}", "4", "2", "0"]
    assert SEEN in str(drawn(one).of("svg")[0]["aria-label"])
    many = columns_chart("Tokens", [Bar(str(day), day, "") for day in range(100)], short)
    assert len(heights(many)) == 99  # nothing is drawn of nothing
    assert heights(many) == sorted(heights(many))
    assert heights(many)[0] == 1  # a little is seen
    assert drawn(many).text.endswith("0\n99")


def test_columns_of_huge_numbers_stay_inside() -> None:
    bars = [Bar("a", 10.0**value, "") for value in range(0, 300, 10)]
    assert all(0 < height <= HEIGHT for height in heights(columns_chart("a", bars, short)))


def lines(chart: str) -> list[list[tuple[float, float]]]:
    paths = [path["d"] or "" for path in drawn(chart).of("path", **{"class": "line"})]
    return [
        [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", path)]
        for path in paths
    ]


def test_no_point_one_and_two() -> None:
    for points in ([], [Point(0, None)]):
        assert drawn(line_chart("Rows", points, short)).text == "Rows\nno samples yet"
    one = line_chart("Rows", [Point(60, 3)], short)
    assert [path["d"] for path in drawn(one).of("path", **{"class": "dot"})] == ["M1000 25h0"]
    assert drawn(one).text.splitlines() == ["Rows", "3 now", "4", "2", "0", "01-01 00:01"]
    two = line_chart("Rows", [Point(0, 0), Point(3600, 1)], short, least=2)
    assert lines(two) == [[(0, 100), (1000, 50)]]
    assert drawn(two).text.splitlines()[-2:] == ["01-01 00:00", "01-01 01:00"]
    brief = line_chart("Rows", [Point(0, 0), Point(62, 1)], short)
    assert drawn(brief).text.splitlines()[-2:] == ["00:00:00", "00:01:02"]


def test_a_curve_has_gaps_where_nobody_looked() -> None:
    values = [1, 2, None, None, 3, None, 4, 4]
    chart = line_chart("Rows", [Point(at, value) for at, value in enumerate(values)], short)
    assert [len(line) for line in lines(chart)] == [2, 2]
    assert len(drawn(chart).of("path", **{"class": "dot"})) == 1


@given(st.lists(st.floats(0, 1e300), min_size=2, max_size=50))
def test_curves_stay_inside(values: list[float]) -> None:
    points = [Point(1e9 + 60 * place, value) for place, value in enumerate(values)]
    [line] = lines(line_chart("Rows", points, short))
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in line)


@given(st.floats(0, 1e300, allow_subnormal=False))
def test_a_scale_ends_above_and_near(value: float) -> None:
    top = round_above(value)
    assert top >= value
    assert value == 0 or top <= 2 * value * 1.001


@given(st.floats(0, 1e300))
def test_a_short_number_is_short(value: float) -> None:
    assert len(short(value)) <= 10


# Samples


def sample(at: float, *names: str) -> Sample:
    return Sample(at, {name: Figures(int(at), 0, 1.5, 20.0) for name in names or ("docs",)})


def grown(count: int, *names: str, step: float = 60) -> History:
    history = History("db")
    for number in range(count):
        history = with_sample(history, sample(NOW + number * step, *names))
    return history


def test_samples_are_bounded_and_older_ones_further_apart() -> None:
    history = grown(5000)
    times = [item.at for item in history.samples]
    assert MOST_SAMPLES / 2 < len(times) <= MOST_SAMPLES
    assert times == sorted(times)
    assert times[0] == NOW  # 5,000 minutes are half a week
    apart = [after - before for before, after in pairwise(times)]
    assert apart[-100:] == [60] * 100
    assert apart[0] > 4 * 60
    assert len(dumped(history)) < 40_000


def test_old_samples_go_and_those_of_a_clock_that_was_put_back() -> None:
    history = with_sample(History("db"), sample(NOW))
    history = with_sample(history, sample(NOW + KEPT_SECONDS + 1))
    assert len(history.samples) == 1
    assert [item.at for item in with_sample(history, sample(NOW)).samples] == [NOW]


def test_many_vectorizers_have_fewer_samples() -> None:
    names = [f"docs_{number}" for number in range(MOST_FIGURES // 50)]
    assert 25 < len(grown(200, *names).samples) <= 50
    names = [f"docs_{number}" for number in range(MOST_FIGURES)]
    assert len(grown(FEWEST_SAMPLES + 5, *names[:5000]).samples) <= FEWEST_SAMPLES


def test_samples_are_read_back() -> None:
    history = History(HOSTILE, [sample(1.5, HOSTILE, "имя"), sample(2, "docs")])
    said = dumped(history)
    assert not set("<>&") & set(said)
    assert loaded(said) == history


def spoilt() -> Iterator[Any]:
    good = {"at": 1, "vectorizers": {"a": [1, 2, 3, 4]}}
    yield from ("", "{", "[]", "null", "3", '{"samples": []}', '{"database": "d", "samples": 3}')
    bad: list[Any] = [None, {}, {**good, "at": "1"}, {**good, "at": -1}, {**good, "at": True}]
    bad += [{**good, "vectorizers": [1]}, {**good, "vectorizers": {"a": [1, 2, 3]}}]
    bad += [{**good, "vectorizers": {"a": [1, 2, 3, odd]}} for odd in (float("nan"), 10**400)]
    for item in bad:
        yield json.dumps({"database": "d", "samples": [good, item]})


@pytest.mark.parametrize("said", list(spoilt()))
def test_what_cannot_be_samples_is_refused(said: str) -> None:
    with pytest.raises(ValueError, match="no samples"):
        loaded(said)


# The page of `pg status`


def look(name: str, state: str = "active", error: str | None = None, **more: Any) -> Look:
    known: dict[str, Any] = {
        "pending": 0,
        "leased": 0,
        "dead": 0,
        "lag": None,
        "workers": 1,
        "rows_per_second": 0.0,
        "tokens_per_second": 0.0,
        "walked": 0,
        "to_walk": 0,
        "time_left": timedelta(0),
    }
    of = {**known, **more}
    status = VectorizerStatus(
        name, f"{name}_source", f"{name}_target", "m", 8, state,
        of["pending"], of["leased"], of["dead"], of["lag"], error,
    )  # fmt: skip
    progress = VectorizerProgress(
        name, of["workers"], of["rows_per_second"], of["tokens_per_second"], 0, 0, Decimal(0),
        of["walked"], of["to_walk"], of["time_left"],
    )  # fmt: skip
    return Look(status, progress)


def status(*looks: Look, index: str = "none wanted", history: History | None = None) -> str:
    names = [look.status.name for look in looks]
    indexes = {name: IndexText(index, is_due=False) for name in names}
    history = history or History("shop", [sample(NOW, *names)])
    return status_page("qwen-embed pg status", looks, indexes, history)


def test_a_card_tells_all_that_is_known() -> None:
    busy = look(
        "docs", "backfill", pending=12_340, leased=256, dead=4, lag=timedelta(minutes=4),
        rows_per_second=82.34, tokens_per_second=41_022, workers=2, walked=180_000, to_walk=62_000,
        time_left=timedelta(minutes=13), error="no offer is left: paid: too dear",
    )  # fmt: skip
    found = checked(status(busy, index="docs_hnsw (hnsw, 16 MB)"))
    assert [f.get("class") for f in found.of("span", **{"class": "state busy"})] == ["state busy"]
    for said in (
        "12,340", "256 leased", "4 min", "82.34 rows/s", "41k tokens/s, 2 workers", "13 min",
        "180,000 of about 242,000 rows gone through", "docs_hnsw (hnsw, 16 MB)",
        "no offer is left: paid: too dear", "docs_source into docs_target, m/8", "Database shop",
    ):  # fmt: skip
        assert said in found.text, said
    assert "No worker is running" not in found.text


def test_every_state_has_a_colour_and_a_meaning() -> None:
    for state, (colour, meaning) in STATES.items():
        found = checked(status(look("docs", state)))
        assert found.of("span", **{"class": f"state {colour}"})
        assert meaning[1:] in found.text
    checked(status(look("docs", "a state of another version")))


def test_what_nobody_works_on_is_said_first() -> None:
    looks = (look("docs", pending=3, workers=0, time_left=None), look("other"))
    found = checked(status(*looks))
    assert "No worker is running for docs. Start one: qwen-embed pg worker" in found.text
    assert "no worker" in found.text
    assert len(found.of("a")) == 2  # an overview leads to the cards


def test_a_page_without_vectorizers() -> None:
    assert "none yet" in checked(status()).text


def test_hostile_names_and_errors_are_text() -> None:
    looks = [look(HOSTILE, HOSTILE, HOSTILE), look("b", error="E" * 5000 + " api_key=hunter2")]
    history = History(HOSTILE, [sample(NOW - 60, HOSTILE), sample(NOW, HOSTILE, "b")])
    written = status(*looks, index=HOSTILE, history=history)
    found = checked(written)
    assert len(found.of("script")) == 1
    assert history_in(written) == history
    assert "hunter2" not in written
    assert max(map(len, found.text.splitlines())) <= LONGEST_ERROR
    short_error = status(look("b", error="refused: api_key=hunter2 is no key"))
    assert "hunter2" not in short_error
    assert "api_key=***" in short_error


def test_a_page_of_many_samples_is_bounded_and_draws_them() -> None:
    history = grown(MOST_SAMPLES, "docs", "other")
    written = status(look("docs"), look("other"), history=history)
    found = checked(written)
    assert len(found.of("path", **{"class": "line"})) == 4
    assert "Charts of 500 samples" in found.text
    assert len(written) < 160_000


def test_what_is_said_of_an_index() -> None:
    def said(kind: str, index: str | None, size: int | None) -> IndexText:
        return index_text(IndexFigures("docs", kind, index, size, 10, 0, None, None, None))

    assert said("none", None, None) == ("none wanted", False)
    assert said("hnsw", None, None) == ("hnsw, not built yet", True)
    assert said("hnsw", "docs_hnsw", 1 << 24) == ("docs_hnsw (hnsw, 16 MB)", False)


# The page of `usage`


@pytest.fixture
def setup() -> Setup:
    table = {"kind": "openai-compatible", "base_url": "http://127.0.0.1:1/v1"}
    settings = Settings.load(
        use=["given", "paid"],
        providers={
            "given": {**table, "free_tokens": 1000, "free_until": "2999-12-31"},
            "paid": {**table, "price_per_million": "0.20", "usd_per_day": "0.5"},
        },
    )
    return Setup.make(settings, None)


TODAY = EPOCH + timedelta(days=int(NOW // 86_400))


def count(day: date, offer: str, used: Amount, held: Amount = Amount()) -> Count:  # noqa: B008
    key = Key("use", offer.partition("/")[0], offer, (day - EPOCH).days)
    return Count(key, used, held)


def usage(setup: Setup, *counts: Count, since: date | None = None) -> Page:
    return checked(usage_page("qwen-embed usage", report(setup, counts, NOW, since)))


def test_nothing_was_used_yet(setup: Setup) -> None:
    found = usage(setup)
    assert "Nothing was used yet" in found.text
    assert "1,000 of 1,000 tokens left; lapses 2999-12-31; 0 tokens used" in found.text
    assert not found.of("figure")


def test_what_was_used_by_day_and_provider(setup: Setup) -> None:
    cent = Amount(2, 50_000, 10**10)
    counts = [
        count(TODAY - timedelta(3), "paid/m", cent),
        count(TODAY, "paid/m", cent + cent),
        count(TODAY, "paid/n", cent),
        count(TODAY, "given/m", Amount(1, 300, 0), Amount(1, 7, 0)),
        Count(Key("grant", "given", "", 0), Amount(1, 993, 0), Amount()),
        Count(Key("budget", "paid", "", (TODAY - EPOCH).days), Amount(1, 1, 4 * 10**11), Amount()),
    ]
    found = usage(setup, *counts)
    columns = [rect for rect in found.of("rect", **{"class": "fill-amount"}) if rect["y"] != "0"]
    assert len(columns) == 4  # two days with use, of money and of tokens
    for said in (
        "0.03 USD", "0.04 USD", "200,300", "in 9 requests", "7 of 1,000 tokens left", "993 tokens",
        "0.10 of 0.50 USD left; renews at 00:00 UTC; 0.40 USD spent", "paid/n *",
        f"{TODAY}: 0.03 USD", f"{TODAY}: 150,300 tokens", "Grant given lapses", "2999-12-31",
        "Budget usd_per_day in [providers.paid] renews",
    ):  # fmt: skip
        assert said in found.text, said
    assert [bar["class"] for bar in found.of("rect")].count("fill-low") == 1 + 1  # and the legend
    names = re.findall(r"^(paid|given)$", found.text, re.MULTILINE)
    assert names == ["paid", "given"]


def test_free_use_has_no_chart_of_money(setup: Setup) -> None:
    found = usage(setup, count(TODAY, "given/m", Amount(1, 300, 0)))
    assert "Nothing was spent from" in found.text
    assert len(found.of("figure")) == 1


def test_hostile_names_and_huge_numbers_in_usage(setup: Setup) -> None:
    offer = f"evil{HOSTILE.replace('/', '')}/m"
    found = usage(setup, count(TODAY, offer, Amount(10**17, 10**18, 10**18)))
    assert SEEN.replace("/", "") in found.text
    assert not found.of("script")
    assert "1M USD" in found.text


def days(*ago: int, since: date | None = None, setup: Setup) -> tuple[list[date], bool]:
    used = [TODAY - timedelta(each) for each in ago]
    counts = [count(day, "paid/m", Amount(1, 1, 1)) for day in used]
    return charted_days(used, report(setup, counts, NOW, since))


def test_days_of_a_chart(setup: Setup) -> None:
    shown, are_all = days(0, 2, setup=setup)
    assert (len(shown), shown[-1], are_all) == (14, TODAY, True)
    shown, are_all = days(0, 400, setup=setup)
    assert (len(shown), shown[-1], are_all) == (MOST_DAYS, TODAY, False)
    assert (
        "there was use before them"
        in usage(
            setup, *(count(TODAY - timedelta(ago), "paid/m", Amount(1, 1, 1)) for ago in (0, 400))
        ).text
    )
    for since in (TODAY, TODAY + timedelta(1)):
        shown, are_all = days(0, since=since, setup=setup)
        assert (len(shown), are_all) == ((shown[-1] - TODAY).days or 1, since == TODAY)
    shown, are_all = days(0, -1, setup=setup)  # a clock that runs ahead
    assert shown[-1] == TODAY + timedelta(1)
