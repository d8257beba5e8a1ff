"""The frozen values that travel between the parts. No behaviour beyond reading themselves."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from qwen_embed_plugins.models import Model
    from qwen_embed_plugins.spaces import EmbeddingSpace

    Matrix: TypeAlias = npt.NDArray[np.float32]
    Vector: TypeAlias = npt.NDArray[np.float32]

Role = Literal["query", "document"]
"""What a text is: queries carry the instruction, documents are embedded bare."""

FaultKind = Literal[
    "rate_limited",  # wait as told, or use another offer
    "quota_spent",  # out until its reset or a top-up
    "bad_key",  # the account is out until the settings change
    "bad_offer",  # wrong model, parameter or region: this offer is out
    "too_large",  # more inputs, tokens or bytes than it takes: lower the cap, split
    "bad_input",  # this text is refused: bisect, perhaps another offer takes it
    "bad_vector",  # the answer fails a check: cool down, another offer
    "unavailable",  # outage, overload, an answer nobody understands: back off
]

TextErrorKind = Literal["empty", "bad_input", "too_large", "bad_vector", "no_offer"]
"""Why a text has no vector. `no_offer` is no fault of the text: it may be tried again as it is."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A provider's refusal or failure, classified.

    `retry_after_seconds` is relative, `until` absolute (seconds since the epoch); at most one is
    set. `text_index` is the place of the refused text in the batch, if the provider named it.
    `limit` is the provider's number for `too_large` when its message gives one (inputs a request);
    `asks_for_floats` says that it refused base64, not the texts.
    """

    kind: FaultKind
    message: str
    scope: Literal["offer", "account"] = "offer"
    retry_after_seconds: float | None = None
    until: float | None = None
    text_index: int | None = None
    limit: int | None = None
    asks_for_floats: bool = False


@dataclass(frozen=True, slots=True)
class WireRequest:
    """One HTTP request as bytes. Header values stay out of `repr`: they hold keys."""

    url: str
    content: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    method: str = "POST"

    def __repr__(self) -> str:
        from qwen_embed_plugins.errors import without_secrets

        return f"WireRequest({self.method} {without_secrets(self.url)}, {len(self.content)} bytes)"


@dataclass(frozen=True, slots=True)
class WireResponse:
    """One HTTP answer as bytes; header names are lower case."""

    status: int
    content: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class TransportFailure(Exception):
    """No whole answer arrived. `kind` says how far the request got."""

    def __init__(
        self, kind: Literal["connect", "timeout", "dropped", "too_big"], message: str
    ) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Pause:
    """An exchange asks to sleep, for example between two polls of a submitted job.

    Raises `TransportFailure` at once where the exchange would outlast its time asleep.
    """

    seconds: float


@dataclass(frozen=True, slots=True)
class Call:
    """An exchange asks to run a blocking function in a thread: in-process models, gRPC.

    The function cannot be interrupted: it has to end by itself, and what it gives is taken, however
    late. Only no step comes after it once the exchange's time is over.
    """

    function: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Batch:
    """The texts of one attempt, ready for a provider plugin.

    `texts` already carry the instruction when `role` is "query", unless the provider says that it
    adds the instruction itself (`adds_instruction = True`): then they are bare and `instruction`
    is set. `encoding` is what to ask for where the wire format has a choice. `dimensions` is the
    length to ask for; None leaves it unsaid, and the native length comes.
    """

    texts: Sequence[str]
    role: Role
    model: Model
    wire_name: str
    instruction: str | None = None
    encoding: Literal["base64", "float"] = "base64"
    dimensions: int | None = None


class Answer(NamedTuple):
    """What a provider gave: (n, d) vectors in the order of the batch, and the tokens it counted.

    `vectors` may be an array or a sequence of sequences; the core checks it, a plugin need not.
    `tokens` is None when the provider reports none. `encoding` is what it really answered in.
    `cost` is what it says that it took, in US dollars; None leaves it to the price.
    """

    vectors: Any
    tokens: int | None = None
    encoding: Literal["base64", "float"] | None = None
    cost: Decimal | None = None


OnProgress: TypeAlias = Callable[[int, int], None]
"""Is told how many texts of a call are done, with a vector or an error, and how many there are."""

Exchange = Generator["WireRequest | Pause | Call", Any, Answer]
"""The requests that serve one batch; its return value is the answer."""

Inspection = Generator["WireRequest | Pause | Call", Any, "tuple[str, ...]"]
"""Requests that ask a server about itself; its return value are notes, one sentence each."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens, texts and requests of one call. `estimated` says that some counts are ours. What the
    cache knew counts among the texts alone."""

    tokens: int = 0
    texts: int = 0
    requests: int = 0
    estimated: bool = False


class TextError(NamedTuple):
    """Why the text at `position` has no vector."""

    position: int
    kind: TextErrorKind
    message: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request to one offer, whatever became of it."""

    offer: str
    texts: int
    seconds: float
    tokens: int = 0
    cost: Decimal = Decimal(0)
    fault: Fault | None = None


@dataclass(frozen=True, slots=True)
class EmbedResult:
    """The outcome of one call.

    `vectors` is float32 of shape (n, dimensions) with unit rows, NaN rows where a text failed;
    `errors` names those, by position. `offers` names for each row the offer that made it (None
    where it failed). `cost` is in US dollars.
    """

    vectors: Matrix
    errors: tuple[TextError, ...]
    space: EmbeddingSpace
    usage: Usage
    cost: Decimal
    attempts: tuple[Attempt, ...]
    offers: tuple[str | None, ...]


class Maker(NamedTuple):
    """Who made a vector that is kept: the offer's key and endpoint, and whether it belongs to the
    model's space by declaration."""

    offer: str
    endpoint: str
    declared: bool


class Kept(NamedTuple):
    """A vector out of the cache, float32 (dimensions,), and the key of the offer that made it."""

    vector: Vector
    offer: str
