"""Services as plain functions, with tempers of every kind and a memory of what reached them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from functools import cache
from random import Random
from typing import TYPE_CHECKING

import numpy as np

from qwen_embed_plugins.effects import Job
from qwen_embed_plugins.models import Model, qwen3_query
from qwen_embed_plugins.provider import Provider
from qwen_embed_plugins.testing import reference_tokens, reference_vector
from qwen_embed_plugins.types import Answer, Fault

if TYPE_CHECKING:
    from qwen_embed_plugins.types import Matrix, Vector

DIMENSIONS = 12
MODEL = Model("toy", DIMENSIONS, context_tokens=4096, min_dimensions=4, format_query=qwen3_query)
MINUTE_SECONDS = 60.0


class ReadsAll(Provider):
    never_cuts = True


class AddsInstruction(ReadsAll):
    adds_instruction = True


@cache
def vector(text: str, space: int) -> Vector:
    """What a model gives for a text as it is sent. Kept: the schedules share their texts."""
    return reference_vector(text, DIMENSIONS, seed=space)


def sent_form(job: Job) -> list[str]:
    """The texts of a request as the model reads them."""
    batch = job.batch
    if batch.role == "query" and job.offer.provider.adds_instruction:
        return [qwen3_query(text, batch.instruction or "") for text in batch.texts]
    return list(batch.texts)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server does with a request: its outcome after so many seconds. `counted` are the
    tokens that it bills, whatever it says; without `answered` nobody hears of the outcome."""

    outcome: Answer | Fault
    seconds: float
    counted: int = 0
    answered: bool = True


@dataclass(slots=True)
class Account:
    """What a service counts of an account: `per_minute` requests in any minute, at arrival."""

    per_minute: int | None = None
    says_when: bool = True
    accepted: deque[float] = field(default_factory=deque)
    gone: Fault | None = None
    """From `gone_at` on it refuses everything: a key that was withdrawn, a quota that is spent."""
    gone_at: float = 0.0

    def refuses(self, now: float) -> Fault | None:
        if self.gone is not None and now >= self.gone_at:
            return self.gone
        if self.per_minute is None:
            return None
        while self.accepted and self.accepted[0] <= now - MINUTE_SECONDS:
            self.accepted.popleft()
        if len(self.accepted) < self.per_minute:
            self.accepted.append(now)
            return None
        seconds = max(0.0, self.accepted[0] + MINUTE_SECONDS - now) if self.says_when else None
        return Fault("rate_limited", "too many requests", retry_after_seconds=seconds)


@dataclass(slots=True)
class Server:
    """One offer's server. `temper` is how often it fails; `hates` are texts that it refuses,
    `poison` those that break it, `mangles` those that it gives no finite vector for. It reads
    `reads` tokens of a text and is silent about the rest, if it does not refuse it."""

    random: Random
    account: Account
    key: str
    """The secret of the account, which it may repeat."""
    temper: float = 0.0
    slow: float = 0.0
    """How often it takes longer than anyone waits."""
    hates: frozenset[str] = frozenset()
    poison: frozenset[str] = frozenset()
    mangles: frozenset[str] = frozenset()
    cap: int = 1000
    names_limits: bool = True
    space: int = 0
    later_space: int | None = None
    changes_at: float = float("inf")
    reads: int = 100_000
    counts: float | None = 1.0
    """The tokens that it reports, of the true ones; None reports none."""
    latency: tuple[float, float] = (0.01, 1.0)

    @property
    def is_well(self) -> bool:
        """Whether it may be full or limited, and is never worse."""
        return (
            not self.temper
            and not self.slow
            and not (self.poison or self.mangles or self.hates)
            and self.later_space is None
            and self.reads >= 100_000
            and self.account.gone is None
        )

    def space_at(self, now: float) -> int:
        return self.space if self.later_space is None or now < self.changes_at else self.later_space

    def respond(self, job: Job, now: float) -> Reply:
        seconds = self.random.uniform(*self.latency)
        texts = job.batch.texts
        refused = self.account.refuses(now) or self._refuses(texts)
        if refused is not None:
            return Reply(refused, seconds)
        if self.poison and not self.poison.isdisjoint(texts):
            return Reply(Fault("unavailable", "internal error"), seconds)
        if self.slow and self.random.random() < self.slow:
            return Reply(self._right(job, now), 1000.0, self._tokens(job))
        if self.temper and self.random.random() < self.temper:
            return self._misbehave(job, now, seconds)
        return Reply(self._right(job, now), seconds, self._tokens(job))

    def _refuses(self, texts: object) -> Fault | None:
        sent = list(texts)  # type: ignore[call-overload]
        if len(sent) > self.cap:
            limit = self.cap if self.names_limits else None
            return Fault("too_large", "too many inputs", limit=limit)
        if self.hates:
            for place, text in enumerate(sent):
                if text in self.hates:
                    index = place if self.names_limits else None
                    return Fault("bad_input", f"refused: {text[:20]}", text_index=index)
        return None

    def _tokens(self, job: Job) -> int:
        true = sum(map(reference_tokens, sent_form(job)))
        return true if self.counts is None else int(true * self.counts)

    def _right(self, job: Job, now: float) -> Answer:
        space = self.space_at(now)
        rows = [vector(self._read(text), space) for text in sent_form(job)]
        if self.mangles:
            for place, text in enumerate(job.batch.texts):
                if text in self.mangles:
                    rows[place] = np.full(DIMENSIONS, np.nan, np.float32)
        return Answer(np.stack(rows), None if self.counts is None else self._tokens(job))

    def _read(self, text: str) -> str:
        return text[: (self.reads - 1) * 4] if reference_tokens(text) > self.reads else text

    def _misbehave(self, job: Job, now: float, seconds: float) -> Reply:
        answer, tokens = self._right(job, now), self._tokens(job)
        matrix: Matrix = np.array(answer.vectors)
        row, choice = self.random.randrange(len(matrix)), self.random.randrange(13)
        if choice == 0:
            matrix[row] = self.random.choice([np.nan, np.inf, 0.0])
        elif choice == 1:
            matrix = matrix[:-1]
        elif choice == 2:
            matrix = matrix[:, :-1]
        elif choice == 3:
            matrix = np.concatenate([matrix, matrix[:1]])
        elif choice == 4:  # another text's vector
            matrix[row] = matrix[row - 1]
        elif choice == 5:  # accepted, and never answered
            return Reply(answer, 1000.0, tokens)
        elif choice == 6:  # the connection breaks after the request was served
            return Reply(Fault("unavailable", "reset"), seconds, tokens, answered=False)
        else:
            return Reply(self._fault(choice), seconds)
        return Reply(Answer(matrix, answer.tokens), seconds, tokens)

    def _fault(self, choice: int) -> Fault:
        if choice < 10:
            after = self.random.choice([None, 0.0, 1.0, 200.0])
            return Fault("rate_limited", f"slow down, {self.key}", retry_after_seconds=after)
        if choice == 10:
            return Fault("quota_spent", "no credit", "account", retry_after_seconds=600.0)
        if choice == 11:
            return Fault("bad_key", f"wrong key {self.key}", "account")
        return Fault("unavailable", "internal error")
