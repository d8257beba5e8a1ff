"""What was used, and what is left of grants, budgets and limits: gathered, and fit for JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any

from qwen_embed_plugins.amounts import NOTHING, Amount
from qwen_embed_plugins.books import Count, Used, used
from qwen_embed_plugins.catalogue import ConfiguredOffer, offers_of_all_models
from qwen_embed_plugins.cli.amounts import exact_usd, iso
from qwen_embed_plugins.cli.claims import Claim, claims_of
from qwen_embed_plugins.ledger import budget_meters
from qwen_embed_plugins.meters import Meter
from qwen_embed_plugins.offers import Grant
from qwen_embed_plugins.setup import Setup
from qwen_embed_plugins.standing import Free, Record, Standing, free
from qwen_embed_plugins.windows import EPOCH

PARTS = ("requests", "tokens")


@dataclass(frozen=True, slots=True)
class OfferUse:
    """What was used of an offer, and what is held besides. `configured`: it is still set up."""

    account: str
    offer: str
    used: Amount
    held: Amount
    configured: bool


@dataclass(frozen=True, slots=True)
class ClaimStanding:
    """A claimed grant and what is left of it. `counts` says that offers of the settings' space may
    draw on it now."""

    claim: Claim
    name: str
    standing: Standing
    lapsed: bool
    counts: bool

    @property
    def left(self) -> int:
        claim, standing = self.claim, self.standing
        return max(0, claim.limit - claim.part(standing.used + standing.held))


@dataclass(frozen=True, slots=True)
class Report:
    """All that `usage` tells, as of `now` (seconds since the epoch). `offers` and `days` are from
    the day `since` on; `spent_today` and `spent` are US dollars, whatever that day is."""

    space: str
    now: float
    since: date | None
    offers: list[OfferUse]
    days: list[Used]
    spent_today: int
    spent: int
    held: int
    claims: list[ClaimStanding]
    budgets: list[Standing]
    limits: list[Standing]
    free: Free
    unclaimed: list[tuple[str, Grant]]
    is_empty: bool


def report(setup: Setup, counts: Sequence[Count], now: float, since: date | None) -> Report:
    """Everything, from counts that were read at `now`."""
    record, everything = Record(counts, now), used(counts)
    keys = [entry.offer for entry in everything]
    offers = list(offers_of_all_models(setup.settings, setup.registry, keys))
    parity = setup.router().parity
    serving = [offer for offer in setup.catalogue.offers if parity.refuses(offer) is None]
    days = used(counts, since or EPOCH)
    today = [entry for entry in everything if (entry.day - EPOCH).days == int(now // 86_400)]
    limits = [meter for offer in offers for meter in offer.limits]
    budgets = [*budget_meters(setup.settings.budget), *filter(_is_budget, limits)]
    return Report(
        space=str(setup.space),
        now=now,
        since=since,
        offers=_by_offer(days, offers),
        days=days,
        spent_today=sum(entry.used.money for entry in today),
        spent=sum(entry.used.money for entry in everything),
        held=sum(entry.held.money for entry in everything),
        claims=list(_claims(offers, serving, record)),
        budgets=_standings((meter for meter in budgets if meter.money is not None), record),
        limits=_standings((meter for meter in limits if not _is_budget(meter)), record),
        free=free(serving, record),
        unclaimed=[
            (offer.key.partition("/")[0], offer.unclaimed)
            for offer in setup.catalogue.offers
            if offer.unclaimed
        ],
        is_empty=not any(count.used != NOTHING or count.held != NOTHING for count in counts),
    )


def _is_budget(meter: Meter) -> bool:
    return meter.kind == "budget"


def _by_offer(days: Iterable[Used], offers: Iterable[ConfiguredOffer]) -> list[OfferUse]:
    known = {(offer.account, offer.key) for offer in offers}
    found: dict[tuple[str, str], tuple[Amount, Amount]] = {}
    for entry in days:
        of = entry.account, entry.offer
        before, held = found.get(of, (NOTHING, NOTHING))
        found[of] = before + entry.used, held + entry.held
    return [OfferUse(*of, *found[of], configured=of in known) for of in sorted(found)]


def _claims(
    offers: Sequence[ConfiguredOffer], serving: Sequence[ConfiguredOffer], record: Record
) -> Iterable[ClaimStanding]:
    claims = claims_of(offers)
    keys = {grant.meter.held_key(record.now) for offer in serving for grant in offer.grants}
    for claim in claims:
        covers = claim.grant.covers_at(record.now)
        counts = covers and claim.meter.held_key(record.now) in keys
        name, standing = claim.name_among(claims), record.of(claim.meter)
        yield ClaimStanding(claim, name, standing, lapsed=not covers, counts=counts)


def _standings(meters: Iterable[Meter], record: Record) -> list[Standing]:
    """One for each count and limit: tables of one account may state the same twice."""
    distinct = {
        (meter.held_key(record.now), meter.requests, meter.tokens, meter.money): meter
        for meter in meters
    }
    return [record.of(meter) for meter in distinct.values()]


# For JSON


def as_dict(of: Report) -> dict[str, Any]:
    """The report with names that stay; money is strings of US dollars, as it is exact."""
    return {
        "at": iso(of.now),
        "since": of.since and of.since.isoformat(),
        "offers": [_offer(entry) for entry in of.offers],
        "days": [
            {"day": entry.day.isoformat(), **_use(entry.account, entry.offer, entry)}
            for entry in of.days
        ],
        "usd": {
            "today": exact_usd(of.spent_today),
            "total": exact_usd(of.spent),
            "held": exact_usd(of.held),
        },
        "grants": [_grant(entry) for entry in of.claims],
        "budgets": [_budget(standing) for standing in of.budgets],
        "limits": [entry for standing in of.limits for entry in _limits(standing)],
        "free": _free(of),
        "unclaimed": [
            {"provider": provider, "grant": asdict(grant)} for provider, grant in of.unclaimed
        ],
    }


def _offer(entry: OfferUse) -> dict[str, Any]:
    return {**_use(entry.account, entry.offer, entry), "configured": entry.configured}


def _use(account: str, offer: str, entry: OfferUse | Used) -> dict[str, Any]:
    return {
        "offer": offer,
        "account": account,
        **_amount(entry.used),
        "held": _amount(entry.held),
    }


def _amount(amount: Amount) -> dict[str, Any]:
    return {
        "requests": amount.requests,
        "tokens": amount.tokens,
        "usd": exact_usd(amount.money),
    }


def _grant(entry: ClaimStanding) -> dict[str, Any]:
    claim, standing = entry.claim, entry.standing
    return {
        "name": entry.name,
        "account": claim.meter.account,
        "model": claim.meter.offer or None,
        "providers": claim.tables,
        "setting": claim.setting,
        "unit": "usd" if claim.in_money else "tokens",
        "limit": claim.exact(claim.limit),
        "used": claim.exact(claim.part(standing.used)),
        "held": claim.exact(claim.part(standing.held)),
        "left": claim.exact(entry.left),
        "lapses_at": iso(claim.grant.until),
        "lapsed": entry.lapsed,
        "renews_at": iso(standing.renews_at),
        "counts_as_free": entry.counts,
    }


def _budget(standing: Standing) -> dict[str, Any]:
    meter = standing.meter
    return {
        "setting": meter.setting,
        "table": meter.table,
        "account": meter.account or None,
        "limit_usd": exact_usd(meter.money or 0),
        "used_usd": exact_usd(standing.used.money),
        "held_usd": exact_usd(standing.held.money),
        "left_usd": exact_usd(standing.left[2] or 0),
        "renews_at": iso(standing.renews_at),
    }


def limit_setting(meter: Meter, part: str) -> str:
    """The setting that states a limit; that of a minute may hold two."""
    return f"{part}_per_minute" if meter.kind == "minute" else meter.setting


def _limits(standing: Standing) -> Iterable[dict[str, Any]]:
    meter = standing.meter
    for part, left in zip(PARTS, standing.left, strict=False):
        if left is not None:
            yield {
                "account": meter.account,
                "model": meter.offer or None,
                "setting": limit_setting(meter, part),
                "limit": getattr(meter, part),
                "used": getattr(standing.used, part),
                "held": getattr(standing.held, part),
                "left": left,
                "renews_at": iso(standing.renews_at),
            }


def _free(of: Report) -> dict[str, Any]:
    return {
        "space": of.space,
        "tokens": of.free.tokens,
        "once_tokens": of.free.once_tokens,
        "daily_tokens": of.free.daily_tokens,
        "credit_usd": exact_usd(of.free.credit),
        "credit_tokens": of.free.credit_tokens,
        "offers_without_end": of.free.endless,
    }
