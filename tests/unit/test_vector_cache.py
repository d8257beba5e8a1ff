"""The cache's file: what is kept comes back to the bit, and what is not whole does not."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from qwen_embed_plugins.spaces import EmbeddingSpace
from qwen_embed_plugins.testing import reference_vector
from qwen_embed_plugins.testing.simulation import SimulatedClock
from qwen_embed_plugins.types import Kept, Maker, Role
from qwen_embed_plugins.vector_cache import REST_SECONDS, USED_SECONDS, VectorCache, _checksum

if TYPE_CHECKING:
    from qwen_embed_plugins.types import Matrix

SPACE = EmbeddingSpace("toy", 64)
MAKER = Maker("a/toy", "http://a toy", True)
OTHER = Maker("b/toy", "http://b toy", True)


def all_of_them(maker: Maker) -> float | None:
    return 0.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "vectors.db"


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock()


@pytest.fixture
def cache(path: Path, clock: SimulatedClock) -> VectorCache:
    return VectorCache(str(path), 1, clock)


def rows(texts: Sequence[str], dimensions: int = 64) -> Matrix:
    return np.stack([reference_vector(text, dimensions) for text in texts])


def keep(
    cache: VectorCache,
    texts: Sequence[str],
    space: EmbeddingSpace = SPACE,
    maker: Maker = MAKER,
    made_at: float = 1.0,
) -> None:
    makers = dict.fromkeys(range(len(texts)), maker)
    cache.keep(space, "document", None, texts, rows(texts, space.dimensions), makers, made_at)


def look(
    cache: VectorCache,
    texts: Sequence[str],
    believed: Callable[[Maker], float | None] = all_of_them,
) -> dict[int, Kept]:
    return cache.look_up(SPACE, "document", None, texts, believed)


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        yield database


def count(path: Path) -> int:
    with opened(path) as database:
        (number,) = database.execute("select count(*) from vector").fetchone()
    return int(number)


def test_what_is_kept_comes_back_to_the_bit_with_who_made_it(
    cache: VectorCache, path: Path
) -> None:
    assert look(cache, ["a"]) == {}
    assert not path.exists(), "looking makes no file"
    keep(cache, ["a", "b"])
    found = look(VectorCache(str(path), 1), ["c", "b", "a"])
    assert found.keys() == {1, 2}
    assert found[1].vector.tobytes() == reference_vector("b", 64).tobytes()
    assert {kept.offer for kept in found.values()} == {"a/toy"}


def test_only_what_is_named_is_kept(cache: VectorCache) -> None:
    cache.keep(SPACE, "document", None, ["a", "b"], rows(["a", "b"]), {1: MAKER}, 1.0)
    assert look(cache, ["a", "b"]).keys() == {1}


@pytest.mark.parametrize(
    ("space", "role", "instruction"),
    [
        (EmbeddingSpace("toy", 32), "query", "i"),
        (EmbeddingSpace("toy2", 64), "query", "i"),
        (EmbeddingSpace("toy", 64, normalised=False), "query", "i"),
        (SPACE, "document", None),
        (SPACE, "query", "j"),
        (SPACE, "query", ""),
        (SPACE, "query", None),
    ],
)
def test_space_role_and_instruction_are_parts_of_the_key(
    cache: VectorCache, space: EmbeddingSpace, role: Role, instruction: str | None
) -> None:
    cache.keep(SPACE, "query", "i", ["a"], rows(["a"]), {0: MAKER}, 1.0)
    assert cache.look_up(SPACE, "query", "i", ["a"], all_of_them).keys() == {0}
    assert cache.look_up(space, role, instruction, ["a"], all_of_them) == {}


def test_no_text_passes_for_a_part_of_another_key(cache: VectorCache) -> None:
    cache.keep(SPACE, "query", "i", ["\n"], rows(["a"]), {0: MAKER}, 1.0)
    for instruction, text in (("i\n", ""), ("", "i\n"), ('i"]\n', "\n"), ("i", "")):
        assert cache.look_up(SPACE, "query", instruction, [text], all_of_them) == {}


def test_neither_text_nor_instruction_is_in_the_file(cache: VectorCache, path: Path) -> None:
    text = "a secret that nobody may read in the file"
    cache.keep(SPACE, "query", "an odd instruction", [text], rows([text]), {0: MAKER}, 1.0)
    content = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert b"http://a toy" in content
    assert b"secret" not in content
    assert b"odd" not in content


def test_who_is_not_believed_is_left_alone_and_who_is_refused_is_deleted(
    cache: VectorCache, path: Path
) -> None:
    keep(cache, ["a"])
    keep(cache, ["b", "c"], maker=OTHER)
    keep(cache, ["d"], maker=OTHER, made_at=5.0)
    assert look(cache, ["a", "b"], lambda maker: None) == {}
    assert count(path) == 4
    assert look(cache, ["a", "b"], lambda maker: inf if maker == OTHER else 0.0).keys() == {0}
    assert count(path) == 1, "all that it made goes, whatever was asked for"
    keep(cache, ["b", "c"], maker=OTHER)
    keep(cache, ["d"], maker=OTHER, made_at=5.0)
    assert look(cache, ["b", "d"], lambda maker: 3.0).keys() == {1}
    assert count(path) == 2, "and what was made before it is believed again"


@pytest.mark.parametrize(
    "damage",
    [
        "content = zeroblob(256)",
        "content = zeroblob(12)",
        "content = 'text'",
        "content = (select content from vector where rowid = 2)",
        "key = (select key from vector where rowid = 2)",
        "checksum = checksum + 1",
        "checksum = 'text'",
        "made_at = 99.0",
        "made_at = 'text'",
        "maker = (select max(id) from maker)",
        "maker = 99",
        "used = 'text'",
    ],
)
def test_a_damaged_row_is_not_there(cache: VectorCache, path: Path, damage: str) -> None:
    keep(cache, ["a", "b"])
    keep(cache, ["c"], maker=OTHER)
    with opened(path) as database:
        database.execute(f"update or replace vector set {damage} where rowid = 1")
    found = look(cache, ["a", "b", "c"])
    lost = {"key": {0, 1}, "use": set()}.get(damage[:3], {0})
    assert found.keys() == {0, 1, 2} - lost
    for place, kept in found.items():
        assert kept.vector.tobytes() == reference_vector("abc"[place], 64).tobytes()
    keep(cache, ["a"])
    assert look(cache, ["a"]).keys() == {0}, "its place is not taken for ever"


@pytest.mark.parametrize("bit", [0, 7, 23, 30, 31])
def test_any_bit_of_a_vector_counts(cache: VectorCache, path: Path, bit: int) -> None:
    keep(cache, ["a"])
    numbers = reference_vector("a", 64).copy()
    numbers.view(np.uint32)[5] ^= np.uint32(1 << bit)
    with opened(path) as database:
        database.execute("update vector set content = ?", (numbers.tobytes(),))
    assert look(cache, ["a"]) == {}
    assert count(path) == 0


@pytest.mark.parametrize("number", [np.nan, np.inf, 1e30, 0.5, 0.0])
def test_what_is_no_unit_vector_is_not_believed_even_if_it_was_written_so(
    cache: VectorCache, path: Path, number: float
) -> None:
    keep(cache, ["a"])
    content = np.full(64, number, np.float32).tobytes()
    with opened(path) as database:
        (key,) = database.execute("select key from vector").fetchone()
        checksum = _checksum(key, MAKER, 1.0, content)
        database.execute("update vector set content = ?, checksum = ?", (content, checksum))
    assert look(cache, ["a"]) == {}
    assert count(path) == 0


# How large it becomes


def size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.parent.iterdir())


@pytest.mark.parametrize("dimensions", [32, 512, 1024, 2560, 4096])
def test_the_file_keeps_to_its_bound_and_is_used_well(
    cache: VectorCache, path: Path, dimensions: int
) -> None:
    space = EmbeddingSpace("toy", dimensions)
    row = np.zeros((1, dimensions), np.float32)
    row[0, 0] = 1
    per_call = max(1, 300_000 // (dimensions * 4))
    sizes: list[int] = []
    texts: list[str] = []
    for call in range(12):
        texts = [f"{call} {number}" for number in range(per_call)]
        vectors = np.repeat(row, per_call, axis=0)
        makers = dict.fromkeys(range(per_call), MAKER)
        cache.keep(space, "document", None, texts, vectors, makers, 1.0)
        sizes.append(size(path))
    assert max(sizes) <= 1_000_000
    assert count(path) * (dimensions * 4 + 220) > 400_000
    last = cache.look_up(space, "document", None, texts, all_of_them)
    assert len(last) == per_call, "what came last is there"


def test_who_was_used_least_recently_goes_first(cache: VectorCache, clock: SimulatedClock) -> None:
    space = EmbeddingSpace("toy", 4096)
    row = np.eye(1, 4096, dtype=np.float32)

    def keep_one(text: str) -> None:
        cache.keep(space, "document", None, [text], row, {0: MAKER}, 1.0)

    def is_there(text: str) -> bool:
        return bool(cache.look_up(space, "document", None, [text], all_of_them))

    keep_one("dear")
    keep_one("forgotten")
    for number in range(100):
        clock.seconds += USED_SECONDS
        keep_one(f"text {number}")
        assert is_there("dear")
    assert not is_there("forgotten")
    assert not is_there("text 1")
    assert is_there("text 98")


def test_reading_writes_once_an_hour_at_most(
    cache: VectorCache, path: Path, clock: SimulatedClock
) -> None:
    keep(cache, ["a", "b"])

    def changed() -> bool:
        before = path.read_bytes()
        look(cache, ["a", "b"])
        return path.read_bytes() != before

    assert not changed()
    clock.seconds += USED_SECONDS
    assert changed()
    assert not changed()


def test_a_lowered_bound_makes_the_file_smaller(path: Path) -> None:
    texts = [f"text {number}" for number in range(900)]
    space = EmbeddingSpace("toy", 1024)
    keep(VectorCache(str(path), 10), texts, space)
    assert size(path) > 3_500_000
    keep(VectorCache(str(path), 1), ["one more"], space)
    assert size(path) <= 1_000_000
    assert count(path) > 100


# Files that cannot be used


@pytest.mark.parametrize("kind", ["garbage", "folder", "other", "newer", "device", "cut"])
def test_a_file_that_is_no_cache_is_said_once_and_never_touched(
    path: Path, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    path.parent.mkdir()
    if kind == "garbage":
        path.write_bytes(b"this is no database, and long enough to be looked at as if it were one")
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path = Path("/dev/null/vectors.db")
    elif kind == "cut":
        keep(VectorCache(str(path), 1), [f"text {number}" for number in range(100)])
        path.write_bytes(path.read_bytes()[:9_000])
    else:
        with opened(path) as database:
            if kind == "newer":
                database.execute("pragma application_id = 0x51454356")
            database.executescript("create table vector (precious); pragma user_version = 99")
    before = path.read_bytes() if path.is_file() else None
    cache = VectorCache(str(path), 1)
    for _ in range(3):
        keep(cache, ["a"])
        assert look(cache, ["a"]) == {}
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert str(path) in record.message
    assert "another with cache = " in record.message
    assert "\n" not in record.message
    if before is not None and kind != "cut":
        assert path.read_bytes() == before


def test_a_page_that_went_bad_costs_no_call(
    cache: VectorCache, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    texts = [f"text {number}" for number in range(400)]
    keep(cache, texts)
    content = bytearray(path.read_bytes())
    for page in range(2, len(content) // 4096):
        content[page * 4096 : page * 4096 + 64] = b"\xff" * 64
    path.write_bytes(content)
    for place, kept in look(cache, texts).items():
        assert kept.vector.tobytes() == reference_vector(texts[place], 64).tobytes()
    keep(cache, texts)
    assert len(caplog.records) == 1


def test_while_another_writes_one_waits_a_while_and_then_goes_on_without(
    cache: VectorCache, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qwen_embed_plugins.vector_cache.BUSY_SECONDS", 0.01)
    moment = [0.0]
    monkeypatch.setattr("qwen_embed_plugins.vector_cache.time.monotonic", lambda: moment[0])
    keep(cache, ["a"])
    with opened(path) as other:
        other.execute("begin immediate")
        keep(cache, ["b"])
        assert look(cache, ["a", "b"]).keys() == {0}, "who only reads does not wait"
        other.execute("rollback")
    keep(cache, ["b"])
    assert look(cache, ["b"]) == {}, "it is left alone for a while"
    moment[0] += REST_SECONDS
    keep(cache, ["b"])
    assert look(cache, ["b"]).keys() == {0}


def test_a_file_that_is_deleted_under_it_appears_again(cache: VectorCache, path: Path) -> None:
    keep(cache, ["a"])
    path.unlink()
    assert look(cache, ["a"]) == {}
    keep(cache, ["a"])
    assert look(cache, ["a"]).keys() == {0}
