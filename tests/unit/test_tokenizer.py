"""A tokenizer's file: its counts instead of estimates, and one line for what is wrong with it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from qwen_embed_plugins import ConfigurationError, Embedder, Offer, Settings
from qwen_embed_plugins import tokenizer as module
from qwen_embed_plugins.testing import Behaviour, SimulatedServer
from qwen_embed_plugins.tokenizer import FileTokenizer, load_tokenizer
from tests.attacks.conftest import registry_of

ROOT = Path(__file__).parents[2]
SMALL = "qwen3-embedding-0.6b"


def words(*, ends: bool = True) -> Tokenizer:
    """A token for each word, and one for the end if its file says so."""
    made = Tokenizer(models.WordLevel({"[UNK]": 0, "<end>": 1}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if ends:
        end = processors.TemplateProcessing(single="$A <end>", special_tokens=[("<end>", 1)])
        made.post_processor = end
    return made


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[Tokenizer], str]:
    def save(tokenizer: Tokenizer) -> str:
        path = str(tmp_path / "tokenizer.json")
        tokenizer.save(path)
        return path

    return save


Saved = Callable[[Tokenizer], str]


@pytest.mark.parametrize("ends", [True, False])
def test_each_text_has_a_token_for_its_end_whether_the_file_says_so_or_not(
    saved: Saved, ends: bool
) -> None:
    count = load_tokenizer(saved(words(ends=ends)))
    assert [count(text) for text in ("one", "one two three", "one two three")] == [2, 4, 4]


def test_what_a_file_would_cut_or_pad_is_counted_whole(saved: Saved) -> None:
    tokenizer = words()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=9)
    count = load_tokenizer(saved(tokenizer))
    assert count("one two") == 3
    assert count("word " * 5000) == 5001


@given(st.lists(st.text("ab 字é\n", max_size=30), max_size=80))
def test_counts_are_the_same_ahead_or_not_and_in_any_company(texts: list[str]) -> None:
    alone, ahead = FileTokenizer(words()), FileTokenizer(words())
    ahead.count_ahead(texts)
    assert [*map(ahead, texts)] == [*map(alone, texts)]
    assert [*map(alone, texts)] == [len(text.split()) + 1 for text in texts]


def test_texts_are_counted_once_and_not_remembered_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 100)
    count = FileTokenizer(words())
    encoded: list[str] = []
    real = count._tokenizer

    class Watched:
        def encode_batch_fast(self, texts: list[str]) -> Any:
            encoded.extend(texts)
            return real.encode_batch_fast(texts)

    count._tokenizer = Watched()  # type: ignore[assignment]
    count.count_ahead(["a", "b c"])
    assert [count("a"), count("b c"), count("d")] == [2, 3, 2]
    assert encoded == ["a", "b c", "d"]
    for number in range(1000):
        assert count(f"text {number}") == 3
    assert len(count._counts) <= 100 + 1


def test_many_threads_get_right_counts_while_counts_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 10)
    count = FileTokenizer(words())
    wrong: list[object] = []

    def use() -> None:
        for number in range(600):
            text = "word " * (number % 23)
            try:
                if number % 7 == 0:
                    count.count_ahead([text, "b"])
                if count(text) != number % 23 + 1:
                    wrong.append(text)
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=use) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_file_is_read_once_until_it_changes(saved: Saved) -> None:
    path = saved(words())
    first = load_tokenizer(path)
    assert load_tokenizer(path) is first
    saved(Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]")))
    assert load_tokenizer(path) is not first


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file or directory; name the model's tokenizer.json, or remove the setting"),
        (b"", "expected the model's tokenizer.json"),
        (b"{}", "expected the model's tokenizer.json"),
        (b"\xff\xfe\x00", "expected the model's tokenizer.json"),
        (b'{"model": {"type": "Odd"}, "version": "1.0"}', "expected the model's tokenizer.json"),
    ],
)
def test_a_file_that_is_none_is_one_line_when_the_embedder_is_made(
    tmp_path: Path, content: bytes | None, said: str
) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        Embedder(model=SMALL, tokenizer=str(path))
    assert str(caught.value).startswith("tokenizer = '")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_and_a_wrong_type_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"Is a directory.*expected the model's"):
        Embedder(model=SMALL, tokenizer=str(tmp_path))
    with pytest.raises(ConfigurationError, match="tokenizer = 5: expected a non-empty string"):
        Embedder(model=SMALL, tokenizer=5)
    with pytest.raises(ConfigurationError, match="did you mean 'tokenizer'"):
        Embedder(model=SMALL, tokeniser="x")


def test_without_the_package_the_error_says_how_to_install_it(
    saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(words())
    module._loaded.cache_clear()
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'qwen-embed-plugins\[tokenizer\]'"):
        Embedder(model=SMALL, tokenizer=path)


def test_the_package_is_loaded_only_for_the_setting(saved: Saved) -> None:
    program = (
        "import sys; from qwen_embed_plugins import Embedder\n"
        "settings = {'model': sys.argv[1], 'use': ['lexical'], 'model': 'lexical'}\n"
        "Embedder(settings).close(); print('tokenizers' in sys.modules)\n"
        "Embedder(settings, tokenizer=sys.argv[2]).close(); print('tokenizers' in sys.modules)\n"
    )
    command = [sys.executable, "-c", program, SMALL, saved(words())]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.stdout.split() == ["False", "True"], answer.stderr


# What is decided by it


@pytest.fixture
def tables() -> Callable[..., Settings]:
    def settings(server: SimulatedServer, **given: Any) -> Settings:
        table = {"kind": "openai-compatible", "base_url": f"{server.url}/v1"}
        mine = {**table, **given.pop("table", {})}
        return Settings.load(model=SMALL, use=["mine"], providers={"mine": mine}, **given)

    return settings


def test_what_a_server_does_not_count_is_counted_by_the_tokenizer(
    saved: Saved, tables: Callable[..., Settings]
) -> None:
    with (
        SimulatedServer(Behaviour(reports_tokens=False), native=1024) as server,
        Embedder(tables(server, tokenizer=saved(words()))) as embedder,
    ):
        result = embedder.embed(["one", "two words", "now three words"])
        assert (result.usage.tokens, result.usage.estimated) == (2 + 3 + 4, True)

        async def run() -> int:
            async with embedder.awaiting() as twin:
                return (await twin.embed(["four words it has"])).usage.tokens

        assert asyncio.run(run()) == 5


def test_a_query_is_counted_with_its_instruction(
    saved: Saved, tables: Callable[..., Settings]
) -> None:
    with (
        SimulatedServer(Behaviour(reports_tokens=False), native=1024) as server,
        Embedder(tables(server, tokenizer=saved(words()))) as embedder,
    ):
        result = embedder.embed(["here"], "query", instruction="Find it")
    assert result.usage.tokens == len(["Instruct:", "Find", "it", "Query:here", "<end>"])


def test_batches_are_split_by_it(saved: Saved) -> None:
    """Estimated, all 20 texts would fit into one request."""
    registry = registry_of(offers=[Offer(SMALL, "w", max_inputs=32, max_batch_tokens=100)])
    texts = [f"{letter} a b c d e f g h" for letter in "abcdefghijklmnopqrst"]
    settings = Settings.load(model=SMALL, use=["made"])
    with Embedder(settings, registry=registry) as plain:
        assert [attempt.texts for attempt in plain.embed(texts).attempts] == [20]
    with Embedder(settings, tokenizer=saved(words()), registry=registry) as exact:
        assert [attempt.texts for attempt in exact.embed(texts).attempts] == [10, 10]


def test_a_cut_is_seen_by_its_count_where_the_estimate_saw_none(
    saved: Saved, tables: Callable[..., Settings]
) -> None:
    """Short words: four bytes a token are half the truth."""
    text = " ".join("a" * 3_000)  # 3,000 tokens, estimated 1,500
    behaviour = Behaviour(reported_tokens=1_200)
    with SimulatedServer(behaviour, native=1024) as server:
        settings = tables(server, table={"max_input_tokens": 30_000})
        with Embedder(settings) as plain:
            assert not plain.embed([text]).errors
        with Embedder(settings, tokenizer=saved(words())) as exact:
            [error] = exact.embed([text, "short"]).errors
    assert (error.position, error.kind) == (0, "too_large")
    assert "counted 1200 tokens where about 3001 were sent" in error.message


def test_the_event_loop_goes_on_while_texts_are_counted(
    saved: Saved, tables: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        SimulatedServer(native=1024) as server,
        Embedder(tables(server, tokenizer=saved(words()))) as embedder,
    ):
        tokenizer = embedder._setup.tokenizer
        assert tokenizer is not None
        meanwhile, real = threading.Event(), tokenizer._counted
        threads: set[int] = set()

        async def run() -> None:
            loop, began = asyncio.get_running_loop(), asyncio.Event()

            def slow(texts: Any) -> list[int]:
                threads.add(threading.get_ident())
                loop.call_soon_threadsafe(began.set)
                assert meanwhile.wait(30), "the loop stood still"
                return real(texts)

            monkeypatch.setattr(tokenizer, "_counted", slow)
            async with embedder.awaiting() as twin:
                call = asyncio.create_task(twin.embed(["one", "two"]))
                await began.wait()
                meanwhile.set()
                assert not (await call).errors

        asyncio.run(run())
        assert threading.get_ident() not in threads
