"""Errors as OpenAI's clients read them, and which of ours becomes which."""

from __future__ import annotations

import logging
import math
import time
import traceback
from collections.abc import Sequence
from typing import Any

from qwen_embed_plugins.errors import (
    BudgetExceeded,
    ConfigurationError,
    InvalidInput,
    NoOfferLeft,
    without_secrets,
)
from qwen_embed_plugins.types import FaultKind, TextError

log = logging.getLogger("qwen_embed_plugins.server")

NAMED_POSITIONS = 10
LONGEST_REASON = 300
LONGEST_MESSAGE = 2_000

LIMITS: frozenset[FaultKind] = frozenset({"rate_limited", "quota_spent"})
"""Why an offer rests when a limit of its account is reached, and nothing is broken."""

OWN_FAULTS = {"empty", "bad_input", "too_large"}
"""Why a text has no vector when no other time or offer would give it one."""


class Refusal(Exception):
    """A request that is not answered with vectors.

    `code` is for programs, `param` names the field at fault. `positions` are the places of the
    texts at fault. `retry_after_seconds` says when another try is worth it.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after_seconds: int | None = None,
        positions: Sequence[int] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.retry_after_seconds = retry_after_seconds
        self.positions = list(positions)

    @property
    def type(self) -> str:
        """OpenAI's name for the family of the error."""
        if self.code == "insufficient_quota":
            return self.code
        if self.status == 429:
            return "rate_limit_error"
        return "server_error" if self.status >= 500 else "invalid_request_error"

    def content(self) -> dict[str, Any]:
        """The error object."""
        error: dict[str, Any] = {
            "message": without_secrets(str(self))[:LONGEST_MESSAGE],
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }
        if self.positions:
            error["positions"] = self.positions
        return {"error": error}

    def headers(self) -> dict[str, str]:
        """What the answer says beside it."""
        found = {}
        if self.retry_after_seconds is not None:
            found["retry-after"] = str(self.retry_after_seconds)
        if self.code == "insufficient_quota":
            found["x-should-retry"] = "false"  # OpenAI's client would try any 429 again, in vain
        if self.status == 401:
            found["www-authenticate"] = "Bearer"
        return found


def refusal_of(error: Exception) -> Refusal:
    """What a client is told of an error of the embedder's. What it cannot act on is logged."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, InvalidInput):
        return Refusal(400, "invalid_value", str(error))
    if isinstance(error, BudgetExceeded):
        after = _seconds_until(error.retry_at)
        return Refusal(429, "insufficient_quota", str(error), retry_after_seconds=after)
    if isinstance(error, NoOfferLeft):
        after = _seconds_until(error.retry_at)
        if error.kinds and LIMITS.issuperset(error.kinds.values()):
            return Refusal(429, "rate_limit_exceeded", str(error), retry_after_seconds=after)
        return Refusal(503, "no_offer_left", str(error), retry_after_seconds=after)
    if isinstance(error, ConfigurationError):
        log.error("a request failed", extra={"reason": without_secrets(str(error))})
        said = "the server's settings or its state are wrong; its log says what"
        return Refusal(500, "wrong_settings", said)
    # Where, not what: an exception of someone else's may hold a key or a whole text.
    where = "".join(traceback.format_tb(error.__traceback__))
    log.error("a request failed", extra={"reason": type(error).__name__, "where": where})
    said = f"internal error: {type(error).__name__}; the server's log says where"
    return Refusal(500, "internal_error", said)


def texts_without_vector(errors: Sequence[TextError], total: int) -> Refusal:
    """The refusal of a request of which some texts have no vector: all of them are named.

    OpenAI's answer has no room for a text without a vector, and a client would take another one's.
    """
    said = [_reason(error, total) for error in errors[:NAMED_POSITIONS]]
    if len(errors) > NAMED_POSITIONS:
        said.append(f"and {len(errors) - NAMED_POSITIONS} more")
    message = "; ".join(said)
    if total > 1:
        message = f"{len(errors)} of {total} texts have no vector: {message}"
    at_fault = [error for error in errors if error.kind in OWN_FAULTS]
    positions = [error.position for error in errors]
    if at_fault:
        code = f"text_{at_fault[0].kind}"
        return Refusal(400, code, message, param="input", positions=positions)
    if all(error.kind == "bad_vector" for error in errors):
        return Refusal(502, "bad_vector", message, param="input", positions=positions)
    return Refusal(503, "no_offer_left", message, param="input", positions=positions)


def _reason(error: TextError, total: int) -> str:
    said = " ".join(error.message.split())[:LONGEST_REASON]
    where = f"position {error.position}" if total > 1 else "the text has no vector"
    return f"{where}: {error.kind}: {said}"


def _seconds_until(moment: float | None) -> int | None:
    return None if moment is None else max(1, math.ceil(moment - time.time()))
