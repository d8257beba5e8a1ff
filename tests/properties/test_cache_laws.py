"""With a cache every call gives what it gives without one, and no known text is sent again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_embed_plugins import Embedder, EmbedResult, NoOfferLeft, hookimpl
from qwen_embed_plugins.errors import ProviderError
from qwen_embed_plugins.plugins import Registry, load_plugins
from qwen_embed_plugins.testing import FakeProvider
from qwen_embed_plugins.types import Fault, Role

if TYPE_CHECKING:
    from qwen_embed_plugins.types import Matrix

SMALL = "qwen3-embedding-0.6b"
SURROGATE = "lone \ud800"
TEXTS = ["a", "b", "c", "a ", "A", "ß", "текст", "hated", "hated too", "", "  ", SURROGATE]


class Moody(FakeProvider):
    """Refuses some texts, whoever they come with."""

    name = "moody"

    def _serve(self, texts: tuple[str, ...], dimensions: int) -> Matrix:
        if any("hated" in text for text in texts):
            self.texts_seen.extend(texts)
            raise ProviderError(Fault("bad_input", "a hated text"))
        return super()._serve(texts, dimensions)


@dataclass(frozen=True)
class Asked:
    """One call: to which of two spaces, as what, with which instruction, in which colour."""

    dimensions: int
    role: Role
    instruction: str
    texts: list[str]
    awaited: bool


CALLS = st.builds(
    Asked,
    st.sampled_from([1024, 32]),
    st.sampled_from(["document", "query"]),
    st.sampled_from(["", "find it"]),
    st.lists(st.sampled_from(TEXTS), max_size=9),
    st.booleans(),
)


@dataclass
class Side:
    """Embedders of both spaces over one provider."""

    folder: Path
    cached: bool
    stack: ExitStack
    provider: type[FakeProvider] = field(init=False)
    embedders: dict[int, Embedder] = field(init=False)

    def __post_init__(self) -> None:
        self.provider = type("Moody", (Moody,), {"name": "moody"})
        cache = {"cache": str(self.folder / "vectors.db")} if self.cached else {}
        self.embedders = {
            dimensions: self.stack.enter_context(
                Embedder(
                    model=SMALL,
                    use=["moody"],
                    dimensions=dimensions,
                    state=str(self.folder / f"{self.cached}.db"),
                    registry=self._registry(),
                    **cache,
                )
            )
            for dimensions in (1024, 32)
        }

    def _registry(self) -> Registry:
        plugin = ModuleType("plugin")

        def register_providers(register: Callable[..., None]) -> None:
            register(self.provider)

        plugin.register_providers = hookimpl(register_providers)  # type: ignore[attr-defined]
        return load_plugins(extra={"plugin": plugin}, found=())

    def embed(self, asked: Asked) -> EmbedResult:
        embedder: Any = self.embedders[asked.dimensions]
        if not asked.awaited:
            result: EmbedResult = embedder.embed(
                asked.texts, asked.role, instruction=asked.instruction
            )
            return result

        async def run() -> EmbedResult:
            async with embedder.awaiting() as twin:
                answer: EmbedResult = await twin.embed(
                    asked.texts, asked.role, instruction=asked.instruction
                )
            return answer

        return asyncio.run(run())


@settings(max_examples=40)
@given(calls=st.lists(CALLS, min_size=1, max_size=6))
def test_a_cache_changes_nothing_but_what_is_sent(calls: list[Asked]) -> None:
    with TemporaryDirectory() as folder, ExitStack() as stack:
        plain = Side(Path(folder), False, stack)
        cached = Side(Path(folder), True, stack)
        known: set[tuple[object, ...]] = set()
        for asked in calls:
            cached.provider.texts_seen.clear()
            expected, result = plain.embed(asked), cached.embed(asked)
            assert np.array_equal(result.vectors, expected.vectors, equal_nan=True)
            assert result.vectors.dtype == np.float32
            assert result.offers == expected.offers
            assert [e[:2] for e in result.errors] == [e[:2] for e in expected.errors]
            assert result.usage.texts == expected.usage.texts
            assert result.space == expected.space
            context = (
                asked.dimensions,
                asked.role,
                asked.instruction if asked.role == "query" else None,
            )
            failed = {error.position for error in expected.errors}
            good = {text for place, text in enumerate(asked.texts) if place not in failed}
            new = {text for text in good if (*context, text) not in known}
            sent = cached.provider.texts_seen
            for text in good - new:
                assert not any(seen == text or seen.endswith(f"Query:{text}") for seen in sent)
            if not new and not any("hated" in text for text in asked.texts):
                assert not result.attempts
                assert not sent
                assert result.cost == 0
                assert (result.usage.tokens, result.usage.requests) == (0, 0)
            assert result.usage.requests == len(result.attempts)
            assert result.usage.tokens == sum(attempt.tokens for attempt in result.attempts)
            known |= {(*context, text) for text in good}


@settings(max_examples=25)
@given(
    before=st.lists(st.sampled_from("abcdef"), max_size=6),
    texts=st.lists(st.sampled_from("abcdef "), min_size=1, max_size=9),
)
def test_without_any_offer_what_is_known_is_answered(before: list[str], texts: list[str]) -> None:
    with TemporaryDirectory() as folder, ExitStack() as stack:
        side = Side(Path(folder), True, stack)
        embedder = side.embedders[32]
        expected = {text: embedder.embed([text]).vectors[0] for text in before}
        side.provider.faults.extend([Fault("bad_key", "the key was taken back")] * 50)
        missing = {text for text in texts if text.strip()} - expected.keys()
        if missing and not expected.keys() & set(texts):
            try:
                embedder.embed(texts)
            except NoOfferLeft:
                return
            raise AssertionError("nothing could be served, and nobody said so")
        result = embedder.embed(texts)
        kinds = {error.position: error.kind for error in result.errors}
        for place, text in enumerate(texts):
            if text in expected:
                assert np.array_equal(result.vectors[place], expected[text])
                assert result.offers[place] == f"moody/{SMALL}"
            else:
                assert kinds.pop(place) == ("no_offer" if text.strip() else "empty")
                assert np.isnan(result.vectors[place]).all()
        assert not kinds
