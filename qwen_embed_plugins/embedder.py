"""`Embedder` and `AsyncEmbedder`: thin shells over one flow, which differ in their driver alone."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from qwen_embed_plugins.drivers import AwaitingDriver, BlockingDriver
from qwen_embed_plugins.effects import MakeFlow
from qwen_embed_plugins.planning import Planned, only, plan, serve, spread, whole
from qwen_embed_plugins.plugins import Registry
from qwen_embed_plugins.settings import Settings
from qwen_embed_plugins.setup import SettingsLike, Setup, announce, settings_from
from qwen_embed_plugins.spaces import EmbeddingSpace
from qwen_embed_plugins.transport import AsyncHttpTransport, HttpTransport
from qwen_embed_plugins.types import EmbedResult, OnProgress, Role
from qwen_embed_plugins.verification import Report, Verification

if TYPE_CHECKING:
    from qwen_embed_plugins.types import Matrix, Vector

T = TypeVar("T")


class _Once(Generic[T]):
    """Makes something when it is first asked for; again if that failed."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._made: list[T] = []

    @property
    def made(self) -> bool:
        return bool(self._made)

    def __call__(self) -> T:
        with self._lock:
            if not self._made:
                self._made.append(self._make())
            return self._made[0]


class _Shell:
    """What both colours share. Everything that must not cross a fork is made anew in the child."""

    def __init__(
        self,
        settings: SettingsLike = None,
        *,
        model: str | None = None,
        dimensions: int | None = None,
        registry: Registry | None = None,
        **overrides: Any,
    ) -> None:
        given = {"model": model, "dimensions": dimensions, **overrides}
        self._setup = Setup.make(settings_from(settings, given), registry)
        self._start()
        _shells.add(self)

    def _start(self) -> None:
        """Make what belongs to one process: router, driver, connections. Nothing is asked of the
        state yet, which may be a database far away: a fork must not wait for it."""
        self._router = _Once(self._setup.router)

    @property
    def space(self) -> EmbeddingSpace:
        """The space of every vector that this embedder gives."""
        return self._setup.space

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._setup.settings

    def __repr__(self) -> str:
        offers = ", ".join(offer.key for offer in self._setup.catalogue.offers)
        return f"{type(self).__name__}({self.space}, offers: {offers or 'none'})"

    def _plan(
        self,
        texts: Sequence[str],
        role: Role,
        instruction: str | None,
        on_progress: OnProgress | None,
    ) -> Planned:
        announce(self._setup)
        chosen = self.settings.instruction if instruction is None else instruction
        return plan(texts, role, self.space, chosen, on_progress)

    def _flow(self, planned: Planned) -> MakeFlow[EmbedResult]:
        return lambda wake: serve(planned.request, self._router(), wake, self._setup.cache)

    def _verification(self, against: str | None, longest: int | None) -> Verification:
        announce(self._setup)
        return Verification(self._router(), self.space, against, longest)


_shells: weakref.WeakSet[_Shell] = weakref.WeakSet()


def _after_fork() -> None:
    for shell in list(_shells):
        shell._setup.ledger.after_fork()
        shell._start()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Embedder(_Shell):
    """Turns texts into vectors of one embedding space, whoever serves them. Blocking.

    Settings are discovered (see `Settings.load`), or passed as a `Settings`, a file's path or a
    mapping; any setting may also be an argument. Raises `ConfigurationError` for wrong ones;
    reaches no network before the first text. One object serves any number of threads, also inside
    a running event loop (which it then blocks: use `AsyncEmbedder` there), and after a fork.
    """

    def _start(self) -> None:
        super()._start()
        self._transport = HttpTransport()
        self._driver = BlockingDriver(self._transport, self._setup.ledger, self._setup.state)

    def embed(
        self,
        texts: Sequence[str],
        role: Role = "document",
        *,
        instruction: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> EmbedResult:
        """Vectors, errors, usage and cost of one call, in the order of the texts.

        A text that failed has a NaN row and an entry in `.errors`. Raises `NoOfferLeft` or
        `BudgetExceeded` when no text at all could be served and none is to blame, `InvalidInput`
        for what is no list of strings. Blocks until all is answered or given up. `on_progress` is
        called in this thread with the number of texts that are done and the number of all; what it
        raises is logged and ends the reports, not the call.
        """
        planned = self._plan(texts, role, instruction, on_progress)
        return spread(planned, self._driver.run(self._flow(planned)))

    def embed_documents(
        self, texts: Sequence[str], *, on_progress: OnProgress | None = None
    ) -> Matrix:
        """float32 (n, dimensions) with unit rows. Raises `PartialFailure` if a text failed."""
        return whole(self.embed(texts, on_progress=on_progress))

    def embed_query(self, text: str, *, instruction: str | None = None) -> Vector:
        """float32 (dimensions,) of unit length; the instruction goes before the text, once."""
        return only(self.embed([text], "query", instruction=instruction))

    def verify(self, *, against: str | None = None, longest: int | None = None) -> Report:
        """Examine every configured offer, measure it by one of them, and remember the verdicts.

        `against` names an offer or provider to measure by; without it, the one that most others
        agree with. `longest` bounds the long texts, in tokens. Costs up to 60,000 tokens an offer,
        kept within the budget. Blocks until all have answered or failed.
        """
        return self._driver.run(lambda wake: self._verification(against, longest).run())

    def awaiting(self) -> AsyncEmbedder:
        """The same for asyncio, sharing offers' health, ledger and state with this one."""
        twin = AsyncEmbedder.__new__(AsyncEmbedder)
        twin._setup = self._setup
        twin._start()
        twin._router = self._router
        _shells.add(twin)
        return twin

    def close(self) -> None:
        """Close connections, let threads end, write down what was used. The embedder may be used
        again."""
        self._driver.close()
        self._transport.close()
        self._setup.ledger.close()

    def __enter__(self) -> Embedder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncEmbedder(_Shell):
    """`Embedder` for asyncio: the same names, awaited. One object serves any number of event
    loops, one after another or at once; connections close with their loop."""

    def _start(self) -> None:
        super()._start()
        self._transport = AsyncHttpTransport()
        self._driver = AwaitingDriver(self._transport, self._setup.ledger, self._setup.state)

    async def embed(
        self,
        texts: Sequence[str],
        role: Role = "document",
        *,
        instruction: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> EmbedResult:
        """See `Embedder.embed`. Cancelling the call cancels its requests; `on_progress` is a plain
        function and is called in the event loop."""
        planned = self._plan(texts, role, instruction, on_progress)
        await self._ready()
        return spread(planned, await self._driver.run(self._flow(planned)))

    async def embed_documents(
        self, texts: Sequence[str], *, on_progress: OnProgress | None = None
    ) -> Matrix:
        """float32 (n, dimensions) with unit rows. Raises `PartialFailure` if a text failed."""
        return whole(await self.embed(texts, on_progress=on_progress))

    async def embed_query(self, text: str, *, instruction: str | None = None) -> Vector:
        """float32 (dimensions,) of unit length; the instruction goes before the text, once."""
        return only(await self.embed([text], "query", instruction=instruction))

    async def verify(self, *, against: str | None = None, longest: int | None = None) -> Report:
        """See `Embedder.verify`."""
        await self._ready()
        return await self._driver.run(lambda wake: self._verification(against, longest).run())

    async def _ready(self) -> None:
        """Make the router before the flow asks for it, without stopping the loop."""
        if not self._router.made:
            await asyncio.to_thread(self._router)

    async def aclose(self) -> None:
        """Close the running loop's connections, write down what was used. The embedder may be used
        again."""
        await self._transport.aclose()
        await asyncio.to_thread(self._setup.ledger.close)

    async def __aenter__(self) -> AsyncEmbedder:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
