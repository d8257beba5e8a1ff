"""Every exception of the package, grouped by who can act on it.

    QwenEmbedError
     ├── ConfigurationError   settings, keys or arguments: the caller changes them
     ├── InvalidInput         a text that no provider could be given
     ├── SpaceMismatch        vectors of two embedding spaces would have met
     ├── PartialFailure       some texts have no vector; `.result` holds the paid ones
     ├── NoOfferLeft          every offer is out or refused; `.reasons` says why, one each
     ├── BudgetExceeded       a budget of the user's would be overrun; nothing was sent
     ├── ProviderError        one provider's answer; `.kind` says what follows from it
     └── DatabaseError        the user's Postgres: missing extension, rights, tables

Each message says what happened with the value found, what was expected and what to do. None
holds a key or a whole text: `shown` shortens and `without_secrets` cleans what comes from outside.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from qwen_embed_plugins.types import EmbedResult, Fault, FaultKind

__all__ = [
    "BudgetExceeded",
    "ConfigurationError",
    "DatabaseError",
    "InvalidInput",
    "NoOfferLeft",
    "PartialFailure",
    "ProviderError",
    "QwenEmbedError",
    "SpaceMismatch",
    "shown",
    "without_secrets",
]


class QwenEmbedError(Exception):
    """Base of all errors that this package raises on purpose."""


class ConfigurationError(QwenEmbedError):
    """Settings, an environment variable or an argument is wrong; nothing was sent."""


class InvalidInput(QwenEmbedError, ValueError):
    """A text cannot be embedded by anyone (not a string, empty, not valid Unicode).

    `position` is its place in the list that was passed, None for a single query.
    """

    def __init__(self, message: str, *, position: int | None = None) -> None:
        super().__init__(message)
        self.position = position


class SpaceMismatch(QwenEmbedError):
    """Vectors of one embedding space were asked to stand where another's are."""


class PartialFailure(QwenEmbedError):
    """Some texts got no vector. `.result` holds the vectors that were paid for."""

    def __init__(self, message: str, *, result: EmbedResult) -> None:
        super().__init__(message)
        self.result = result


class NoOfferLeft(QwenEmbedError):
    """No offer could serve. `reasons` maps each offer to why, `again` those that rest to when they
    are asked again, and `retry_at` says when it is worth another try (all in seconds since the
    epoch; None: not before the settings change). `kinds` has the kind of fault of those that rest.
    """

    def __init__(
        self,
        message: str,
        *,
        reasons: Mapping[str, str],
        retry_at: float | None = None,
        again: Mapping[str, float] | None = None,
        kinds: Mapping[str, FaultKind] | None = None,
    ) -> None:
        super().__init__(message)
        self.reasons = dict(reasons)
        self.retry_at = retry_at
        self.again = dict(again or {})
        self.kinds = dict(kinds or {})


class BudgetExceeded(QwenEmbedError):
    """A budget of the user's would be overrun; the request was not sent.

    `retry_at` is when the budget renews (seconds since the epoch; None: when it is raised).
    """

    def __init__(self, message: str, *, retry_at: float | None = None) -> None:
        super().__init__(message)
        self.retry_at = retry_at


class ProviderError(QwenEmbedError):
    """A provider refused or failed. `fault` is its classified answer, `kind` the fault's kind."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault

    @property
    def kind(self) -> FaultKind:
        return self.fault.kind


class DatabaseError(QwenEmbedError):
    """The user's Postgres cannot do what was asked: extension, rights, table or column."""


_SECRETS = re.compile(
    r"""(?ix)
    (?P<scheme>bearer\s+) [^\s"',}]+
  | (?P<url>[a-z][a-z0-9+.-]*://[^\s:/@]*:) [^\s@/]+ (?=@)
  | (?P<named>["']?(?:api[_-]?key|token|secret|password|authorization)["']?\s*[:=]\s*["']?)
        (?:bearer\s+)? [^\s"',}&]+
  | (?P<key>\b(?:(?:sk|pk|al|fw|nvapi|hf|gsk|r8)[-_]|jina_)) [A-Za-z0-9_-]{8,}
    """
)

_ALSO_INSIDE_WORDS = 4
"""Shorter ones are stand-ins and no secrets; as parts of words they are in every message."""


def without_secrets(text: str, known: Iterable[str] = ()) -> str:
    """The text with known secrets, and whatever looks like one, replaced by three stars.

    >>> without_secrets("postgresql://app:hunter2@db/x")
    'postgresql://app:***@db/x'
    >>> without_secrets("the key x in the next text", ["x"])
    'the key *** in the next text'
    """
    for secret in known:
        if len(secret) >= _ALSO_INSIDE_WORDS:
            text = text.replace(secret, "***")
        elif secret:  # a stand-in such as "x" would make stars of every x in a message
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "***", text)
    return _SECRETS.sub(
        lambda m: next(group for group in m.groups() if group is not None) + "***", text
    )


def shown(value: object, limit: int = 60) -> str:
    """The value for a message: on one line and never longer than `limit` characters.

    >>> shown("a" * 100, limit=10)
    "'aaaaaaaaa…'"
    """
    if isinstance(value, str) and len(value) > limit:
        value = value[: limit - 1] + "…"
    text = str(value) if isinstance(value, Decimal) else repr(value)  # as the file has it
    return text if len(text) <= limit * 4 + 2 else text[: limit * 4] + "…"
