"""`QwenEmbeddings`: the four methods of LangChain's interface, each in its own colour."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from langchain_core.embeddings import Embeddings
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SkipValidation,
    model_validator,
)

from qwen_embed_plugins.embedder import AsyncEmbedder, Embedder
from qwen_embed_plugins.errors import ConfigurationError
from qwen_embed_plugins.langchain.pickles import with_this_environment, without_keys
from qwen_embed_plugins.langchain.secret_fields import Secret, revealed
from qwen_embed_plugins.langchain.usage import CallSummary, LastCalls
from qwen_embed_plugins.planning import only, whole
from qwen_embed_plugins.setup import SettingsLike, settings_from
from qwen_embed_plugins.types import OnProgress

if TYPE_CHECKING:
    from qwen_embed_plugins.spaces import EmbeddingSpace


class QwenEmbeddings(BaseModel, Embeddings):
    """Embeddings of one space, from whichever provider serves it.

    `QwenEmbeddings()` finds Ollama, or the keys in the environment. All fields are optional:
    `model`, `dimensions`, `instruction` (goes before queries only), `policy`, `use` (the providers
    that may receive texts), `settings` (a file's path, a mapping or `Settings`), `api_keys` (by
    provider name), `embedder` (a ready `Embedder`, instead of all of these) and `on_progress`
    (called during `embed_documents`, also by vector stores, with how many texts are done and how
    many there are).

    Raises `ConfigurationError` for wrong settings when made, and no network is reached before the
    first text. Errors of the methods are those of `Embedder`: `PartialFailure` holds what was paid.
    Async methods need no thread and may be used from any number of event loops.

    Dumps and pickles hold no key: where a pickle is read, keys are looked for in the environment.
    What a call cost is in `last_call`, what many cost in `track_usage`.
    """

    # An error that quotes its input would show the key of a mistaken `api_key="sk-…"`.
    model_config = ConfigDict(
        extra="forbid",
        arbitrary_types_allowed=True,
        protected_namespaces=(),
        hide_input_in_errors=True,
    )

    model: str | None = None
    dimensions: int | None = None
    instruction: str | None = None
    policy: str | None = None
    use: list[str] | None = None
    # Left out of dumps: `Settings` holds the environment, and a mapping may hold keys.
    settings: SkipValidation[SettingsLike] = Field(default=None, exclude=True, repr=False)
    api_keys: Mapping[str, Secret] = Field(default_factory=dict)
    embedder: Embedder | None = Field(default=None, exclude=True, repr=False)
    on_progress: SkipValidation[OnProgress | None] = Field(default=None, exclude=True, repr=False)

    _blocking: Embedder = PrivateAttr()
    _awaiting: AsyncEmbedder = PrivateAttr()
    _calls: LastCalls = PrivateAttr()

    @model_validator(mode="after")
    def _make_embedders(self) -> QwenEmbeddings:
        self._connect()
        return self

    def _connect(self) -> None:
        if self.embedder is None:
            self._blocking = Embedder(settings_from(self.settings, self._overrides()))
        else:
            self._refuse_other_fields()
            self._blocking = self.embedder
        self._awaiting = self._blocking.awaiting()
        self._calls = LastCalls()

    def _overrides(self) -> dict[str, Any]:
        keys = {name: revealed(secret) for name, secret in self.api_keys.items()}
        return {
            "model": self.model,
            "dimensions": self.dimensions,
            "instruction": self.instruction,
            "policy": self.policy,
            "use": self.use,
            "api_keys": keys or None,
        }

    def _refuse_other_fields(self) -> None:
        others = {*self._overrides(), "settings"}
        given = sorted(name for name in others if name != "api_keys" and getattr(self, name))
        if given or self.api_keys:
            raise ConfigurationError(
                f"embedder= already has its settings; leave out {', '.join(given or ['api_keys'])}"
            )

    def __getstate__(self) -> dict[Any, Any]:
        """What a pickle holds: the fields without keys. Connections are made anew."""
        if self.embedder is not None:
            raise ConfigurationError(
                "embedder= holds connections and cannot be pickled; pass settings= instead"
            )
        state = super().__getstate__()
        bare = {"api_keys": {}, "settings": without_keys(self.settings)}
        return {**state, "__dict__": {**state["__dict__"], **bare}, "__pydantic_private__": None}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        super().__setstate__(state)
        self.__dict__["settings"] = with_this_environment(self.settings)
        object.__setattr__(self, "__pydantic_private__", {})
        self._connect()

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> QwenEmbeddings:
        """A copy that shares the embedder, which any number of threads may use."""
        return self.__copy__()

    @property
    def space(self) -> EmbeddingSpace:
        """The space of every vector that this object gives."""
        return self._blocking.space

    @property
    def last_call(self) -> CallSummary | None:
        """Usage, cost and attempts of the last call that this thread made, or this task where an
        event loop runs; None before the first one and after one that ended without any result.
        Calls of other threads and tasks never show here: see `track_usage` for those."""
        return self._calls.of_caller()

    def embed_documents(
        self, texts: list[str], *, on_progress: OnProgress | None = None
    ) -> list[list[float]]:
        """n texts to n lists of `dimensions` floats, of unit length. Blocks; `on_progress` is
        called in this thread, for this call instead of the field's."""
        self._calls.begin()
        result = self._blocking.embed(texts, on_progress=on_progress or self.on_progress)
        lists: list[list[float]] = whole(self._calls.note(result)).tolist()
        return lists

    def embed_query(self, text: str, *, instruction: str | None = None) -> list[float]:
        """One list of `dimensions` floats; the instruction, by default the field's, goes before the
        text. Blocks."""
        self._calls.begin()
        result = self._blocking.embed([text], "query", instruction=instruction)
        numbers: list[float] = only(self._calls.note(result)).tolist()
        return numbers

    async def aembed_documents(
        self, texts: list[str], *, on_progress: OnProgress | None = None
    ) -> list[list[float]]:
        """`embed_documents`, awaited; `on_progress` is called in the event loop."""
        self._calls.begin()
        result = await self._awaiting.embed(texts, on_progress=on_progress or self.on_progress)
        lists: list[list[float]] = whole(self._calls.note(result)).tolist()
        return lists

    async def aembed_query(self, text: str, *, instruction: str | None = None) -> list[float]:
        """`embed_query`, awaited."""
        self._calls.begin()
        result = await self._awaiting.embed([text], "query", instruction=instruction)
        numbers: list[float] = only(self._calls.note(result)).tolist()
        return numbers
