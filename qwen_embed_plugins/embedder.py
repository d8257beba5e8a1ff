"""`Embedder` and `AsyncEmbedder`: thin shells over one flow, which differ in their driver alone."""

from __future__ import annotations

import logging
import os
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from qwen_embed_plugins.catalogue import Catalogue, build_catalogue
from qwen_embed_plugins.errors import ConfigurationError, InvalidInput, PartialFailure, shown
from qwen_embed_plugins.flow import AwaitingDriver, BlockingDriver, MakeFlow
from qwen_embed_plugins.health import Health
from qwen_embed_plugins.ledger import Ledger, MemoryLedger
from qwen_embed_plugins.plugins import Registry, load_plugins, unknown_name
from qwen_embed_plugins.router import EmbedRequest, Router
from qwen_embed_plugins.settings import Settings
from qwen_embed_plugins.spaces import EmbeddingSpace
from qwen_embed_plugins.state import SQLiteState, State
from qwen_embed_plugins.transport import AsyncHttpTransport, HttpTransport
from qwen_embed_plugins.types import EmbedResult, Role, TextError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Vector: TypeAlias = npt.NDArray[np.float32]
    Matrix: TypeAlias = npt.NDArray[np.float32]

log = logging.getLogger("qwen_embed_plugins")

SettingsLike: TypeAlias = "Settings | str | os.PathLike[str] | Mapping[str, Any] | None"


def settings_from(source: SettingsLike, overrides: Mapping[str, Any]) -> Settings:
    """Settings from a `Settings`, a file's path, a mapping or nothing, with arguments on top."""
    if isinstance(source, Settings):
        given = {name: value for name, value in overrides.items() if value is not None}
        if not given:
            return source
        checked = Settings.load(os.devnull, environ={}, **given)
        changes = {name: getattr(checked, name) for name in given}
        origins = {**source.origins, **dict.fromkeys(given, "argument")}
        return replace(source, **changes, origins=origins)
    if isinstance(source, Mapping):
        return Settings.load(None, **{**source, **_given(overrides)})
    return Settings.load(source, **_given(overrides))


def _given(overrides: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in overrides.items() if value is not None}


def space_of(settings: Settings, catalogue: Catalogue) -> EmbeddingSpace:
    """The space that the settings ask for; refused if the model has no vectors of that length."""
    model = catalogue.model
    dimensions = settings.dimensions or model.dimensions
    if not model.takes_dimensions(dimensions):
        possible = (
            f"{model.min_dimensions} to {model.dimensions}"
            if model.min_dimensions is not None
            else f"only {model.dimensions}"
        )
        raise ConfigurationError(
            f"dimensions = {dimensions}: {model.name} gives {possible}; "
            "choose one of these or another model"
        )
    return EmbeddingSpace(model.name, dimensions)


@dataclass(frozen=True, slots=True)
class Setup:
    """What an embedder is made of, put together once from settings and plugins."""

    settings: Settings
    registry: Registry
    catalogue: Catalogue
    space: EmbeddingSpace
    state: State
    ledger: Ledger

    @classmethod
    def make(cls, settings: Settings, registry: Registry | None) -> Setup:
        registry = registry or load_plugins()
        catalogue = build_catalogue(settings, registry)
        return cls(
            settings,
            registry,
            catalogue,
            space_of(settings, catalogue),
            SQLiteState(settings.state_path()),
            MemoryLedger(settings.budget, time.time),
        )

    def router(self) -> Router:
        """A router with fresh health: what one process learns about offers while it runs."""
        settings, policies = self.settings, self.registry.policies
        for name in (settings.policy, settings.query_policy or settings.policy):
            if name not in policies:
                raise unknown_name(self.registry, "policies", name)
        return Router(
            catalogue=self.catalogue,
            policy=policies[settings.policy],
            query_policy=policies[settings.query_policy or settings.policy],
            health=Health(Random()),
            capabilities=self.state.capabilities(),
            now=time.time,
            emit=self.registry.emit,
            concurrency=settings.concurrency,
            timeout_seconds=settings.timeout_seconds,
            spill_after_seconds=settings.spill_after_seconds,
            spill_to_paid=settings.spill_to_paid,
        )


class Planned(NamedTuple):
    """A call before it runs: its request, and where each distinct text stood in the list."""

    request: EmbedRequest
    positions: list[list[int]]
    unusable: list[TextError]
    total: int


def plan(texts: Sequence[Any], role: Role, space: EmbeddingSpace, instruction: str) -> Planned:
    """Sort out what cannot be sent, and send equal texts once.

    Raises `InvalidInput` for what is not a list of strings; an empty text, or one that is not
    valid Unicode, becomes an error of its own and harms no other.
    """
    if isinstance(texts, (str, bytes)):
        raise InvalidInput(f"expected a list of strings, got {shown(texts)}; put it in a list")
    if role not in ("query", "document"):
        raise InvalidInput(f'role = {shown(role)}: expected "query" or "document"')
    places: dict[str, list[int]] = {}
    unusable: list[TextError] = []
    texts = list(texts)
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            kind = type(text).__name__
            raise InvalidInput(
                f"the text at position {position} is of type {kind}, expected a string",
                position=position,
            )
        problem = _problem(position, text)
        if problem:
            unusable.append(problem)
        else:
            places.setdefault(text, []).append(position)
    request = EmbedRequest(tuple(places), role, space, instruction if role == "query" else None)
    return Planned(request, list(places.values()), unusable, len(texts))


def _problem(position: int, text: str) -> TextError | None:
    if not text.strip():
        return TextError(position, "empty", "the text is empty")
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            said = f"not valid Unicode: a lone surrogate at character {error.start}"
            return TextError(position, "bad_input", said)
    return None


def spread(planned: Planned, result: EmbedResult) -> EmbedResult:
    """The result for the list as it was passed, from the one for its distinct texts."""
    import numpy as np

    if not planned.unusable and len(planned.positions) == planned.total:
        return result
    vectors = np.full((planned.total, planned.request.space.dimensions), np.nan, np.float32)
    offers: list[str | None] = [None] * planned.total
    for row, positions in enumerate(planned.positions):
        vectors[positions] = result.vectors[row]
        for position in positions:
            offers[position] = result.offers[row]
    errors = planned.unusable + [
        error._replace(position=position)
        for error in result.errors
        for position in planned.positions[error.position]
    ]
    return replace(
        result,
        vectors=vectors,
        offers=tuple(offers),
        errors=tuple(sorted(errors)),
        usage=replace(result.usage, texts=planned.total - len(errors)),
    )


def whole(result: EmbedResult) -> Matrix:
    """The vectors, all of them; `PartialFailure` if a text has none."""
    if not result.errors:
        return result.vectors
    first = result.errors[0]
    more = f" (and {len(result.errors) - 1} more)" if len(result.errors) > 1 else ""
    raise PartialFailure(
        f"{len(result.errors)} of {len(result.vectors)} texts have no vector: the one at position "
        f"{first.position}: {first.kind}: {first.message}{more}; the others are in .result",
        result=result,
    )


def only(result: EmbedResult) -> Vector:
    """The one vector of a query; `InvalidInput` or `PartialFailure` if there is none."""
    if result.errors and result.errors[0].kind == "empty":
        raise InvalidInput("the query is empty; pass some text")
    vector: Vector = whole(result)[0]
    return vector


_announced: set[str] = set()


def announce(setup: Setup) -> None:
    """Say once in a process, in one line, which offers may receive texts.

    A warning if texts may leave for outside addresses, so that it is seen by default.
    """
    offers = setup.catalogue.offers
    line = "texts may be sent to: " + (", ".join(offer.key for offer in offers) or "nobody")
    if line not in _announced:
        _announced.add(line)
        leaves = any(not offer.private for offer in offers)
        log.log(logging.WARNING if leaves else logging.INFO, line)


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
        """Make what belongs to one process: router, driver, connections."""
        self._router = self._setup.router()

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

    def _plan(self, texts: Sequence[str], role: Role, instruction: str | None) -> Planned:
        announce(self._setup)
        chosen = self.settings.instruction if instruction is None else instruction
        return plan(texts, role, self.space, chosen)

    def _flow(self, planned: Planned) -> MakeFlow[EmbedResult]:
        return lambda wake: self._router.flow(planned.request, wake)


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
        self, texts: Sequence[str], role: Role = "document", *, instruction: str | None = None
    ) -> EmbedResult:
        """Vectors, errors, usage and cost of one call, in the order of the texts.

        A text that failed has a NaN row and an entry in `.errors`. Raises `NoOfferLeft` or
        `BudgetExceeded` when no text at all could be served and none is to blame, `InvalidInput`
        for what is no list of strings. Blocks until all is answered or given up.
        """
        planned = self._plan(texts, role, instruction)
        return spread(planned, self._driver.run(self._flow(planned)))

    def embed_documents(self, texts: Sequence[str]) -> Matrix:
        """float32 (n, dimensions) with unit rows. Raises `PartialFailure` if a text failed."""
        return whole(self.embed(texts))

    def embed_query(self, text: str, *, instruction: str | None = None) -> Vector:
        """float32 (dimensions,) of unit length; the instruction goes before the text, once."""
        return only(self.embed([text], "query", instruction=instruction))

    def close(self) -> None:
        """Close connections and let threads end. The embedder may be used again."""
        self._driver.close()
        self._transport.close()

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
        self, texts: Sequence[str], role: Role = "document", *, instruction: str | None = None
    ) -> EmbedResult:
        """See `Embedder.embed`. Cancelling the call cancels its requests."""
        planned = self._plan(texts, role, instruction)
        return spread(planned, await self._driver.run(self._flow(planned)))

    async def embed_documents(self, texts: Sequence[str]) -> Matrix:
        """float32 (n, dimensions) with unit rows. Raises `PartialFailure` if a text failed."""
        return whole(await self.embed(texts))

    async def embed_query(self, text: str, *, instruction: str | None = None) -> Vector:
        """float32 (dimensions,) of unit length; the instruction goes before the text, once."""
        return only(await self.embed([text], "query", instruction=instruction))

    async def aclose(self) -> None:
        """Close the running loop's connections. The embedder may be used again."""
        await self._transport.aclose()

    async def __aenter__(self) -> AsyncEmbedder:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
