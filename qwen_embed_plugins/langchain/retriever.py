"""`QwenRetriever`: the rows of a vectorizer as LangChain's documents."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
)
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict, Field, PrivateAttr, SkipValidation

from qwen_embed_plugins.embedder import AsyncEmbedder, Embedder
from qwen_embed_plugins.errors import ConfigurationError
from qwen_embed_plugins.langchain.pickles import with_this_environment, without_keys
from qwen_embed_plugins.langchain.secret_fields import Secret, revealed
from qwen_embed_plugins.langchain.usage import CallSummary, LastCalls
from qwen_embed_plugins.planning import only
from qwen_embed_plugins.postgres import Hit, asearch, search
from qwen_embed_plugins.postgres.connect import explained, may_hold_a_password
from qwen_embed_plugins.setup import SettingsLike
from qwen_embed_plugins.spaces import EmbeddingSpace

if TYPE_CHECKING:
    import psycopg

    from qwen_embed_plugins.types import Vector


class Pool(Protocol):
    """What is asked of a pool; `psycopg_pool.ConnectionPool` is one."""

    def connection(self) -> AbstractContextManager[psycopg.Connection[Any]]: ...


class AsyncPool(Protocol):
    """As `Pool`; `psycopg_pool.AsyncConnectionPool` is one."""

    def connection(self) -> AbstractAsyncContextManager[psycopg.AsyncConnection[Any]]: ...


class QwenRetriever(BaseRetriever):
    """The rows of a table that embeds itself, nearest first, as documents.

    `vectorizer` is its name; model, dimensions and instruction are the vectorizer's own, looked up
    for each query, so that a move to another model needs no restart. `dsn` is the database's
    address; without it `QWEN_EMBED_DSN`, `DATABASE_URL` and libpq's variables are asked. `settings`
    say who embeds queries, by default the discovered ones; `embedder` is a ready `Embedder` of the
    vectorizer's space instead.

    `k`, `filter` and `score_threshold` may also be given to `invoke`. `filter` is that of
    `postgres.search`: {column: value or list of values}; one that is given to `invoke` is added,
    and replaces what names the same column. Documents with a cosine similarity below
    `score_threshold` (-1 to 1) are left out. `exact` reads every vector.

    A document's text is the one that was embedded: of the row, or of its chunk. `id` is the row's
    key, with `#N` behind it for chunk N from 1 on. `metadata` has the key, `relevance_score`
    (cosine similarity), `chunk`, and the columns of the row that `metadata_columns` names (default:
    all but vectors), as JSON has them; a column of the row goes before a name of ours.

    A query opens one connection, or takes one from a pool of psycopg's: `pool` for blocking calls,
    `async_pool` for awaited ones, instead of `dsn`; whoever made a pool closes it. Blocking calls
    block, awaited ones use no thread. Raises `DatabaseError` for an unknown vectorizer or column
    and what the server refuses, `SpaceMismatch` for an `embedder` of another space, and what the
    embedder raises. `dsn` shows in no dump and no `repr`; with a password in it, or with a pool,
    the retriever cannot be pickled.
    """

    model_config = ConfigDict(
        extra="forbid",
        arbitrary_types_allowed=True,
        protected_namespaces=(),
        hide_input_in_errors=True,
    )

    vectorizer: str = Field(min_length=1)
    dsn: Secret | None = Field(default=None, exclude=True, repr=False)
    pool: SkipValidation[Pool | None] = Field(default=None, exclude=True, repr=False)
    async_pool: SkipValidation[AsyncPool | None] = Field(default=None, exclude=True, repr=False)
    k: int = Field(default=10, ge=1)
    filter: dict[str, Any] | None = None
    score_threshold: float | None = Field(default=None, ge=-1, le=1)
    metadata_columns: list[str] | None = None
    exact: bool = False
    settings: SkipValidation[SettingsLike] = Field(default=None, exclude=True, repr=False)
    embedder: Embedder | None = Field(default=None, exclude=True, repr=False)

    _kept: _KeptEmbedders = PrivateAttr()
    _calls: LastCalls = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        if self.dsn is not None and (self.pool is not None or self.async_pool is not None):
            raise ConfigurationError("dsn and a pool were given; leave one of them out")
        self._begin()

    def _begin(self) -> None:
        self._kept = _KeptEmbedders(self.settings)
        self._calls = LastCalls()

    @property
    def last_call(self) -> CallSummary | None:
        """What this thread's, or this task's, last query used; see `QwenEmbeddings.last_call`."""
        return self._calls.of_caller()

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        k: int | None = None,
        filter: Mapping[str, Any] | None = None,  # noqa: A002  the field's name
        score_threshold: float | None = None,
    ) -> list[Document]:
        self._calls.begin()
        with explained(), self._connection() as connection:
            hits = search(
                connection,
                self.vectorizer,
                query,
                embedder=None if self.embedder is None else _Queries(self.embedder, self._calls),
                embedder_for=lambda *space: _Queries(self._kept.of(*space), self._calls),
                **self._question(k, filter),
            )
        return self._documents(hits, score_threshold)

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        k: int | None = None,
        filter: Mapping[str, Any] | None = None,  # noqa: A002  the field's name
        score_threshold: float | None = None,
    ) -> list[Document]:
        self._calls.begin()
        given = self.embedder
        embedder = None if given is None else _AsyncQueries(given.awaiting(), self._calls)
        with explained():
            async with self._aconnection() as connection:
                hits = await asearch(
                    connection,
                    self.vectorizer,
                    query,
                    embedder=embedder,
                    embedder_for=lambda *at: _AsyncQueries(self._kept.awaiting(*at), self._calls),
                    **self._question(k, filter),
                )
        return self._documents(hits, score_threshold)

    def _connection(self) -> AbstractContextManager[psycopg.Connection[Any] | str | None]:
        """What `search` takes: one of the pool's, or the address."""
        if self.pool is not None:
            return self.pool.connection()
        if self.async_pool is not None:
            raise ConfigurationError("async_pool serves awaited calls only; give a pool as well")
        return nullcontext(self._address())

    def _aconnection(
        self,
    ) -> AbstractAsyncContextManager[psycopg.AsyncConnection[Any] | str | None]:
        """As `_connection`, for `asearch`."""
        if self.async_pool is not None:
            return self.async_pool.connection()
        if self.pool is not None:
            raise ConfigurationError("pool serves blocking calls only; give an async_pool as well")
        return nullcontext(self._address())

    def _address(self) -> str | None:
        return None if self.dsn is None else revealed(self.dsn)

    def _question(self, k: int | None, more: Mapping[str, Any] | None) -> dict[str, Any]:
        both = {**(self.filter or {}), **(more or {})}
        named = self.metadata_columns
        return {
            "k": self.k if k is None else k,
            "filter": both or None,
            "exact": self.exact,
            "columns": "*" if named is None else named,
        }

    def _documents(self, hits: list[Hit], score_threshold: float | None) -> list[Document]:
        least = self.score_threshold if score_threshold is None else score_threshold
        return [_document(hit) for hit in hits if least is None or 1 - hit.distance >= least]

    def __getstate__(self) -> dict[Any, Any]:
        """What a pickle holds: the fields without keys. Connections are made anew."""
        if self.embedder is not None:
            raise ConfigurationError(
                "embedder= holds connections and cannot be pickled; pass settings= instead"
            )
        if self.pool is not None or self.async_pool is not None:
            raise ConfigurationError("a pool holds connections and cannot be pickled; pass dsn=")
        if may_hold_a_password(self._address() or ""):
            raise ConfigurationError(
                "dsn holds a password, which a pickle would carry: leave dsn out and set "
                "QWEN_EMBED_DSN where the retriever is used, or PGPASSWORD beside it"
            )
        state = super().__getstate__()
        bare = {"settings": without_keys(self.settings)}
        return {**state, "__dict__": {**state["__dict__"], **bare}, "__pydantic_private__": None}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        super().__setstate__(state)
        self.__dict__["settings"] = with_this_environment(self.settings)
        object.__setattr__(self, "__pydantic_private__", {})
        self._begin()

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> QwenRetriever:
        """A copy that shares the embedders, which any number of threads may use."""
        return self.__copy__()


class _KeptEmbedders:
    """An embedder for each space that was searched, with its connections and what it learnt."""

    def __init__(self, settings: SettingsLike) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._made: dict[EmbeddingSpace, tuple[Embedder, AsyncEmbedder]] = {}

    def of(self, model: str, dimensions: int) -> Embedder:
        return self._pair(EmbeddingSpace(model, dimensions))[0]

    def awaiting(self, model: str, dimensions: int) -> AsyncEmbedder:
        return self._pair(EmbeddingSpace(model, dimensions))[1]

    def _pair(self, space: EmbeddingSpace) -> tuple[Embedder, AsyncEmbedder]:
        with self._lock:
            if space not in self._made:
                made = Embedder(self._settings, model=space.model, dimensions=space.dimensions)
                self._made[space] = made, made.awaiting()
            return self._made[space]


class _Queries:
    """What `search` asks for a query's vector; notes what that used."""

    def __init__(self, embedder: Embedder, calls: LastCalls) -> None:
        self.space = embedder.space
        self._embedder = embedder
        self._calls = calls

    def embed_query(self, text: str, *, instruction: str | None = None) -> Vector:
        result = self._embedder.embed([text], "query", instruction=instruction)
        return only(self._calls.note(result))


class _AsyncQueries:
    """As `_Queries`, awaited."""

    def __init__(self, embedder: AsyncEmbedder, calls: LastCalls) -> None:
        self.space = embedder.space
        self._embedder = embedder
        self._calls = calls

    async def embed_query(self, text: str, *, instruction: str | None = None) -> Vector:
        result = await self._embedder.embed([text], "query", instruction=instruction)
        return only(self._calls.note(result))


def _document(hit: Hit) -> Document:
    ours = {"relevance_score": 1 - hit.distance, "chunk": hit.chunk}
    metadata = {**ours, **hit.key, **(hit.row or {})}
    # Where vectors are in a column, a text may have gone whose vector is yet to go.
    return Document(page_content=hit.text or "", id=_id(hit), metadata=metadata)


def _id(hit: Hit) -> str:
    value = next(iter(hit.key.values())) if len(hit.key) == 1 else hit.key
    key = value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
    return f"{key}#{hit.chunk}" if hit.chunk else key
