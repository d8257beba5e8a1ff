"""Grants that the user claimed, the names they go by, and setting by hand what is left of one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from difflib import get_close_matches
from typing import Any, NamedTuple

from qwen_embed_plugins.amounts import Amount
from qwen_embed_plugins.books import Books
from qwen_embed_plugins.catalogue import ConfiguredOffer
from qwen_embed_plugins.cli.amounts import dollars_text, exact_usd
from qwen_embed_plugins.errors import ConfigurationError, shown
from qwen_embed_plugins.grants import ConfiguredGrant
from qwen_embed_plugins.meters import Meter, in_dollars
from qwen_embed_plugins.standing import Record
from qwen_embed_plugins.windows import Daily

AMOUNT = re.compile(
    r"(\$?)(\d{1,3}(?:[,_]\d{3}){1,5}|\d{1,18})(\.\d{1,12})? ?(usd|tokens)?", re.ASCII
)

NO_CORRECTION = (
    "expected NAME=AMOUNT, what is left in tokens or in dollars: deepinfra=12000000 or "
    "deepinfra=1.20usd"
)


class Correction(NamedTuple):
    """What the provider says is left of a grant: `tokens`, or `money` in units of 1e-12 dollars."""

    name: str
    tokens: int | None
    money: int | None


def correction(said: str) -> Correction:
    """What `--set` says. Raises ValueError that says what was expected."""
    name, _, amount = (part.strip() for part in said.rpartition("="))
    found = AMOUNT.fullmatch(amount.lower())
    if not name or found is None:
        raise ValueError(NO_CORRECTION)
    sign, whole, cents, unit = found.groups()
    digits = re.sub("[,_]", "", whole)
    if sign or unit == "usd":
        if unit == "tokens":
            raise ValueError(NO_CORRECTION)
        return Correction(name, None, in_dollars(Decimal(digits + (cents or ""))))
    if cents:
        raise ValueError(f"tokens are whole; for dollars write {name}={digits}{cents}usd")
    return Correction(name, int(digits), None)


@dataclass(frozen=True, slots=True)
class Claim:
    """A grant, and the provider tables that draw on it."""

    grant: ConfiguredGrant
    tables: tuple[str, ...]

    @property
    def meter(self) -> Meter:
        return self.grant.meter

    @property
    def setting(self) -> str:
        """The setting that would state it."""
        if self.meter.kind == "credit":
            return "free_usd"
        return "free_tokens_per_day" if isinstance(self.meter.window, Daily) else "free_tokens"

    @property
    def names(self) -> tuple[str, ...]:
        """What it goes by, the shortest first; others may go by some of them too."""
        model = f"/{self.meter.offer}" if self.meter.offer else ""
        return self._spelt(model)

    @property
    def short_names(self) -> tuple[str, ...]:
        """The same without its model: what it goes by if no grant of all models does."""
        return self._spelt("")

    def _spelt(self, model: str) -> tuple[str, ...]:
        owners = dict.fromkeys((self.meter.account, *self.tables))
        plain = tuple(f"{owner}{model}" for owner in owners)
        return (*plain, *(f"{name}.{self.setting}" for name in plain))

    def name_among(self, claims: Iterable[Claim]) -> str:
        """The shortest name that is its own."""
        others = {name for claim in claims if claim is not self for name in claim.names}
        return next((name for name in self.names if name not in others), self.names[-1])

    @property
    def limit(self) -> int:
        """All of it: tokens, or units of 1e-12 US dollars."""
        limit = self.meter.money if self.in_money else self.meter.tokens
        return limit or 0

    @property
    def in_money(self) -> bool:
        return self.meter.kind == "credit"

    def part(self, amount: Amount) -> int:
        """What of an amount it counts."""
        return amount.money if self.in_money else amount.tokens

    def amount_text(self, amount: int) -> str:
        """So much of it, for people."""
        return f"{dollars_text(amount)} USD" if self.in_money else f"{amount:,} tokens"

    def number_text(self, amount: int) -> str:
        return dollars_text(amount) if self.in_money else f"{amount:,}"

    def exact(self, amount: int) -> int | str:
        """So much of it, for JSON: money is a string, as it is exact."""
        return exact_usd(amount) if self.in_money else amount


def claims_of(offers: Iterable[ConfiguredOffer]) -> list[Claim]:
    """The grants of these offers, each once, with the latest of the ends that are stated of it. Two
    tables of one account that state different amounts have two, with one count."""
    found: dict[Any, Claim] = {}
    for offer in offers:
        for grant in offer.grants:
            meter, table = grant.meter, offer.key.partition("/")[0]
            count = (meter.kind, meter.account, meter.offer, meter.window)
            key = (*count, meter.tokens, meter.money)
            before = found.get(key, Claim(grant, ()))
            last = max(before.grant, grant, key=_end)
            found[key] = Claim(last, tuple(dict.fromkeys((*before.tables, table))))
    return list(found.values())


def without_claim(offers: Iterable[ConfiguredOffer], left_out: Mapping[str, str]) -> dict[str, str]:
    """Why no grant of a provider table or account is counted, if none is: it is not set up here
    (`left_out` says why), or the user claimed none."""
    reasons = {name: f"it is not set up here: {reason}" for name, reason in left_out.items()}
    for offer in offers:
        table = offer.key.partition("/")[0]
        for name in (table, offer.account):
            reasons[name] = (
                f"no grant of it is claimed; claim the built-in one with free = true in "
                f"[providers.{table}], or state yours, for example free_tokens = 1000000"
            )
    return reasons


def _end(grant: ConfiguredGrant) -> float:
    return float("inf") if grant.until is None else grant.until


class Corrected(NamedTuple):
    """What was counted of a grant before it was corrected, and what is counted now. What is `held`
    comes on top of both, until it is settled or given back."""

    name: str
    claim: Claim
    before: int
    after: int
    held: int


def claim_named(wanted: Correction, claims: Sequence[Claim], without: Mapping[str, str]) -> Claim:
    """The one claim that a correction means. Raises `ConfigurationError` if it is none of them,
    more than one, or smaller than what is said to be left; `without` says of provider tables and
    accounts why no grant of them is counted."""
    named = [claim for claim in claims if wanted.name in claim.names]
    named = named or [claim for claim in claims if wanted.name in claim.short_names]
    fitting = [claim for claim in named if claim.in_money == (wanted.money is not None)]
    if not named:
        raise _unknown(wanted.name, claims, without)
    if not fitting:
        unit = "US dollars: 1.20usd" if named[0].in_money else "tokens: 12000000"
        raise ConfigurationError(f"--set {wanted.name}: what is claimed there is counted in {unit}")
    if len(fitting) > 1:
        known = ", ".join(claim.name_among(claims) for claim in fitting)
        raise ConfigurationError(f"--set {wanted.name}: which grant of it? name one: {known}")
    [claim] = fitting
    left = wanted.tokens if wanted.money is None else wanted.money
    if left is not None and left > claim.limit:
        raise ConfigurationError(
            f"--set {wanted.name}: {claim.amount_text(left)} are more than the whole grant of "
            f"{claim.amount_text(claim.limit)}; if the provider gives that much, state it: "
            f"{claim.setting} = … in {claim.meter.table}"
        )
    return claim


def _unknown(name: str, claims: Sequence[Claim], without: Mapping[str, str]) -> ConfigurationError:
    if name in without:
        return ConfigurationError(f"--set {name}: {without[name]}")
    known = [claim.name_among(claims) for claim in claims]
    names = {known_name for claim in claims for known_name in claim.names}
    near = get_close_matches(name, names, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]!r}?" if near else f"claimed are: {', '.join(known) or 'none'}"
    return ConfigurationError(f"--set: no grant goes by the name {shown(name)}; {hint}")


def correct(
    books: Books,
    wanted: Sequence[Correction],
    claims: Sequence[Claim],
    without: Mapping[str, str],
) -> list[Corrected]:
    """Set what is left of grants, all in one transaction; raises `ConfigurationError` before it
    if one of them cannot be meant.

    What a provider says is left says what it has counted. What live processes hold counts besides,
    as ever: it may yet be sent, also where less is said to be left. What of it was sent and is not
    written yet is counted twice, rather than not at all.
    """
    chosen = [claim_named(item, claims, without) for item in wanted]
    for place, claim in enumerate(chosen):
        if any(claim.meter.held_key(0) == other.meter.held_key(0) for other in chosen[:place]):
            raise ConfigurationError(f"--set {wanted[place].name}: this grant is set twice")
    with books.page() as page:
        page.recover("")  # what dead processes had taken is in what the provider counted
        record = Record(page.all(), page.now)
        corrected = []
        for item, claim in zip(wanted, chosen, strict=True):
            standing = record.of(claim.meter)
            left = item.tokens if item.money is None else item.money
            after = claim.limit - (left or 0)
            tokens, money = standing.used.tokens, standing.used.money
            amount = Amount(0, tokens, after) if claim.in_money else Amount(0, after, money)
            page.correct(claim.meter.held_key(page.now), amount)
            before, held = claim.part(standing.used), claim.part(standing.held)
            corrected.append(Corrected(claim.name_among(claims), claim, before, after, held))
    return corrected
