"""What a flow may ask for. A flow is one generator of decisions for a call, whatever drives it.

It does no I/O and reads no clock of its own: it yields effects, and is sent the outcome. Three
drivers run the same flow: blocking and awaiting in `drivers.py`, simulated in `simulated.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

from qwen_embed_plugins.catalogue import ConfiguredOffer
from qwen_embed_plugins.ledger import Reservation, Use
from qwen_embed_plugins.parity import Met
from qwen_embed_plugins.types import Answer, Batch, Fault
from qwen_embed_plugins.verdicts import Verdict

if TYPE_CHECKING:
    from qwen_embed_plugins.types import Matrix

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Job:
    """One attempt to be made: a batch for an offer, bounded in time and in the answer's size."""

    id: int
    offer: ConfiguredOffer
    batch: Batch
    timeout_seconds: float
    max_answer_bytes: int


@dataclass(frozen=True, slots=True)
class Finished:
    """How a job ended: with an answer, or with a fault.

    `maybe_served` says that there is no answer although the request may have reached the provider,
    which may have counted it. `answered` says that a server answered, with whatever.
    """

    job: Job
    outcome: Answer | Fault
    seconds: float
    maybe_served: bool = False
    answered: bool = False


@dataclass(frozen=True, slots=True)
class Start:
    """Begin a job; gives nothing and does not wait."""

    job: Job


@dataclass(frozen=True, slots=True)
class Wait:
    """Give the first job that finished, or None at `until` (seconds since the epoch), or None when
    the flow's `wake` was called. `alone` says that nobody will wake it: a driver may then make a
    single job itself."""

    until: float | None = None
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Reserve:
    """Hold tokens and money for an attempt; gives a `Reservation` or `Refused`."""

    use: Use


@dataclass(frozen=True, slots=True)
class Settle:
    """Replace a reservation by what was really used: `cost` was paid, `credit` is what a grant
    covered, both in US dollars; `requests` is 0 where nothing was sent."""

    reservation: Reservation
    tokens: int
    cost: Decimal
    requests: int = 1
    credit: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class Learn:
    """Remember what an endpoint can do."""

    endpoint: str
    name: str
    value: str


@dataclass(frozen=True, slots=True)
class KeepProbes:
    """Remember the vectors that an endpoint gave for the parity probes. Gives all that are kept, by
    endpoint, those of other processes among them; None where the state cannot be had."""

    endpoint: str
    vectors: Matrix


@dataclass(frozen=True, slots=True)
class KeepVerdict:
    """Remember what was measured of an endpoint."""

    endpoint: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Recall:
    """Look up what is known of a model's offers by now. Gives what the state keeps, as `Recalled`;
    None where it cannot be had."""

    model: str


@dataclass(frozen=True, slots=True)
class Aside:
    """Call a function that may wait for a file, and give what it returns. It does not raise."""

    function: Callable[[], Any]


class Recalled(NamedTuple):
    """Verdicts and the probes' vectors by endpoint, those of other processes among them."""

    verdicts: Mapping[str, Verdict]
    probes: Mapping[str, Met]


Remember: TypeAlias = Learn | KeepProbes | KeepVerdict | Recall
Effect: TypeAlias = Start | Wait | Reserve | Settle | Remember | Aside
Flow: TypeAlias = Generator[Effect, Any, T]
Wake: TypeAlias = Callable[[], None]
MakeFlow: TypeAlias = Callable[[Wake], Flow[T]]
"""Makes a flow, given the function that other flows call when a place at an offer is free."""
