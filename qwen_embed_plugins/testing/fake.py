"""A provider without a network, for tests of applications that use this package.

fake = FakePlugin(faults=[Fault("unavailable", "down")])
registry = load_plugins(extra={"fake": fake})
...                                    # settings with use = ["fake"]
assert fake.texts_seen == ["a text"]
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from qwen_embed_plugins.errors import ProviderError
from qwen_embed_plugins.hookspecs import hookimpl
from qwen_embed_plugins.provider import Provider
from qwen_embed_plugins.testing.vectors import reference_tokens, reference_vector
from qwen_embed_plugins.types import Answer, Batch, Call, Exchange, Fault

if TYPE_CHECKING:
    from qwen_embed_plugins.types import Matrix


class FakeProvider(Provider):
    """Gives `reference_vector` for any text and any model, after the faults it was scripted with.

    Each subclass has its own `faults` (the next outcomes; None succeeds) and `texts_seen`.
    """

    name = "fake"
    base_url = "memory://fake"
    serves_any_model = True
    needs_naming = True
    never_cuts = True

    faults: ClassVar[deque[Fault | None]] = deque()
    texts_seen: ClassVar[list[str]] = []

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        cls.faults = deque()
        cls.texts_seen = []

    def exchange(self, batch: Batch) -> Exchange:
        texts = tuple(batch.texts)
        vectors = yield Call(partial(self._serve, texts, batch.model.dimensions))
        return Answer(vectors, sum(map(reference_tokens, texts)))

    def _serve(self, texts: tuple[str, ...], dimensions: int) -> Matrix:
        self.texts_seen.extend(texts)
        fault = self.faults.popleft() if self.faults else None
        if fault is not None:
            raise ProviderError(fault)
        return np.array([reference_vector(text, dimensions) for text in texts], dtype=np.float32)


class FakePlugin:
    """A plugin that registers one fake provider of its own; pass it to `load_plugins(extra=…)`."""

    def __init__(self, name: str = "fake", *, faults: Iterable[Fault | None] = ()) -> None:
        self.provider: type[FakeProvider] = type("FakeProvider", (FakeProvider,), {"name": name})
        self.script(*faults)

    def script(self, *faults: Fault | None) -> None:
        """Append to the outcomes that come next; None succeeds."""
        self.provider.faults.extend(faults)

    @property
    def texts_seen(self) -> list[str]:
        """The texts of all attempts, in the order they were made."""
        return self.provider.texts_seen

    @hookimpl
    def register_providers(self, register: Callable[..., None]) -> None:
        register(self.provider)
