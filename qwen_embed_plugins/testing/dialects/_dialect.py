"""What a wire format has to say of itself, so that a simulated server can speak it."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol

from qwen_embed_plugins.testing.behaviour import Behaviour, Reply


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """One request as it arrived. Header names are lower case; `repr` leaves their values out."""

    path: str
    headers: Mapping[str, str] = field(repr=False)
    body: Any
    texts: tuple[str, ...]
    at_seconds: float
    concurrent: int
    dialect: Dialect = field(repr=False)

    @property
    def embeds(self) -> bool:
        return self.dialect.embeds(self.path)


# Tags as Ollama's library names them, and the weights' names on the model hub.
_LISTED = ("qwen3-embedding:8b", "qwen3-embedding:4b", "qwen3-embedding:0.6b")


@dataclass(frozen=True, slots=True)
class Models:
    """Which models a simulated server knows, and the native length of each.

    With `named` only those exist; otherwise any name does, at `native` numbers, or at the length
    that its Qwen3 size has if `native` is None.
    """

    named: Mapping[str, int] | None = None
    native: int | None = None

    def native_length(self, name: str) -> int | None:
        if self.named is not None:
            return self.named.get(name, self.named.get(name.removesuffix(":latest")))
        if self.native is not None:
            return self.native
        lowered = name.lower()
        return 1024 if "0.6b" in lowered else 2560 if "4b" in lowered else 4096

    def names(self) -> Sequence[str]:
        return _LISTED if self.named is None else tuple(self.named)


class Wish(NamedTuple):
    """The form in which a request wants its vectors; `dimensions` is None where it says none."""

    dimensions: int | None = None
    base64: bool = False


class Dialect(Protocol):
    """One wire format. Subclass it in a module of its own and list it in `DIALECTS`.

    The methods with a body hold for most formats: a JSON object with `model`, texts in `input`.
    """

    name: ClassVar[str]
    """How `SimulatedServer(dialect=…)` calls it."""

    has_indexes: ClassVar[bool] = True
    """Rows of an answer carry their place; without, another order would be another answer."""

    def belongs(self, path: str) -> bool:
        """Whether a request to this path is in this format, where no dialect was named."""
        ...

    def embeds(self, path: str) -> bool:
        """Whether a request to this path asks for vectors."""
        ...

    def texts(self, body: Any) -> tuple[str, ...]:
        """The texts that a body holds, in order; none if it is not of this format."""
        return strings_of(member(body, "input"))

    def model(self, request: RecordedRequest) -> str | None:
        """The wire name of the model that is asked for; None if the request names none."""
        name = member(request.body, "model")
        return name if isinstance(name, str) else None

    def wish(self, request: RecordedRequest) -> Wish:
        """Length and encoding that the request asks for."""
        asked = request.body.get("dimensions")
        return Wish(asked, request.body.get("encoding_format") == "base64")

    def refused(self, request: RecordedRequest) -> Reply | None:
        """The refusal of what this format does not know, such as a field of another one."""
        return None

    def cuts(self, request: RecordedRequest, behaviour: Behaviour) -> bool:
        """Whether a text over the context is cut, and not refused."""
        return behaviour.too_long == "cut"

    def too_long(self, context_tokens: int) -> Reply:
        """The refusal of a text over the context."""
        message = f"This model's maximum context length is {context_tokens} tokens"
        return Reply(400, message, "invalid_request_error", "context_length_exceeded")

    def answer(self, request: RecordedRequest, rows: Rows, tokens: int | None, model: str) -> Reply:
        """The vectors, each a JSON value beside its index. No count is given if `tokens` is None;
        a row whose index is None is written without one."""
        ...

    def error(self, reply: Reply) -> bytes:
        """The body of a refusal whose parts are given."""
        ...

    def about(self, request: RecordedRequest, behaviour: Behaviour, models: Models) -> Reply | None:
        """The answer to a request for something else than vectors; None: no such route."""
        return None


Rows = Sequence[tuple["int | None", bytes]]
"""The rows of an answer as JSON values, each with its index."""


def member(body: Any, name: str) -> Any:
    """One value of a JSON object; None if the body is no object or has none of that name."""
    return body.get(name) if isinstance(body, dict) else None


def unknown_field(given: Any, known: Container[str]) -> str | None:
    """The first member of a JSON object that is not among the known ones."""
    names = given if isinstance(given, dict) else ()
    return next((name for name in names if name not in known), None)


def strings_of(given: Any) -> tuple[str, ...]:
    """One text, or the texts of a list."""
    if isinstance(given, str):
        return (given,)
    return tuple(text for text in given if isinstance(text, str)) if isinstance(given, list) else ()
