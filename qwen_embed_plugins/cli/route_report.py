"""What `route` says: offers with their shares, reasons of the others, what may be claimed."""

from __future__ import annotations

from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

from qwen_embed_plugins.catalogue import ConfiguredOffer
from qwen_embed_plugins.cli.output import Column, print_table, print_text
from qwen_embed_plugins.offers import Grant
from qwen_embed_plugins.paper import REQUEST_SECONDS
from qwen_embed_plugins.rehearsal import Rehearsal, Share, Workload, cost_range, rehearse
from qwen_embed_plugins.router import Router
from qwen_embed_plugins.setup import Setup
from qwen_embed_plugins.types import Role
from qwen_embed_plugins.windows import Daily

NOT_NEEDED = "not needed"
NO_REASON = "not usable for these texts"
"""What the router says of an offer that nothing speaks against."""


def report(
    setup: Setup, role: Role, workload: Workload | None, now: float, *, is_estimate: bool
) -> dict[str, Any]:
    """All that `route --json` prints."""
    router = setup.router()
    ranked = [offer.key for offer in router.ranked(role)]
    rehearsal = None if workload is None else rehearse(setup, workload, role, now)
    shares = {} if rehearsal is None else {share.offer: share for share in rehearsal.shares}
    order = [*shares, *(key for key in ranked if key not in shares)]
    offers = {offer.key: offer for offer in setup.catalogue.offers}
    order += [key for key in offers if key not in order]
    entries = [_entry(router, offers[key], role, now, shares.get(key), rehearsal) for key in order]
    entries.sort(key=lambda entry: not entry["serves"])
    entries += [
        {"offer": name, "serves": False, "reason": reason}
        for name, reason in setup.catalogue.left_out.items()
    ]
    plan: dict[str, Any] = {
        "space": str(setup.space),
        "role": role,
        "offers": entries,
        "unclaimed": {
            offer.provider.config.name: _granted(offer.unclaimed)
            for offer in offers.values()
            if offer.unclaimed is not None
        },
    }
    if workload is not None and rehearsal is not None:
        plan["job"] = _job(setup, role, workload, rehearsal, now, is_estimate)
    return plan


def _entry(
    router: Router,
    offer: ConfiguredOffer,
    role: Role,
    now: float,
    share: Share | None,
    rehearsal: Rehearsal | None,
) -> dict[str, Any]:
    verdict = router.parity.verdicts.get(offer.endpoint)
    reason = _refused(router, offer, role, now)
    entry: dict[str, Any] = {
        "offer": offer.key,
        "serves": reason is None,
        "reason": reason,
        "price_per_million": None if offer.price is None else str(offer.price),
        "terms": _terms(router, offer, now, share),
        "introduced": not router.parity.is_unmet(offer),
        "verdict": verdict.as_dict() if verdict is not None else None,
    }
    if rehearsal is not None:
        said = reason or rehearsal.reasons[offer.key]
        if share is None:
            entry["reason"] = NOT_NEEDED if said == NO_REASON else said
        elif rehearsal.left and said != NO_REASON:
            entry["reason"] = said
        entry |= {
            "texts": share.texts if share else 0,
            "tokens": share.tokens if share else 0,
            "requests": share.requests if share else 0,
            "introduction_tokens": share.own_tokens if share else 0,
            "cost_usd": _amount(share.cost if share else Decimal(0)),
            "credit_usd": _amount(share.credit if share else Decimal(0)),
        }
    return entry


def _refused(router: Router, offer: ConfiguredOffer, role: Role, now: float) -> str | None:
    """Why an offer serves no text of this role, whatever the job."""
    if role not in offer.serve:
        return f"serves no {role}: serve = {', '.join(offer.serve)}"
    if not router.tariffs.serves(offer, now):
        return "no price is known, and a budget is set"
    return router.parity.refuses(offer)


def _terms(router: Router, offer: ConfiguredOffer, now: float, share: Share | None) -> str:
    """What is paid: by a grant, at a price, or first by one and then at the other."""
    price = "price unknown" if offer.price is None else f"{offer.price:f} USD a million"
    if offer.price == 0:
        price = "free"
    grant = router.tariffs.of(offer, now).grant
    if grant is None or (share is not None and not share.covered):
        return price
    said = "free"
    if grant.until is not None:
        said += f" until {_day(grant.until)}"
    if isinstance(grant.meter.window, Daily):
        said += f", renews {grant.meter.window}"
    goes_beyond = share is not None and share.covered < share.tokens
    return f"{said}; then {price}" if goes_beyond else said


def _job(
    setup: Setup,
    role: Role,
    workload: Workload,
    rehearsal: Rehearsal,
    now: float,
    is_estimate: bool,
) -> dict[str, Any]:
    fewest, most, low, high = rehearsal, rehearsal, rehearsal.cost, rehearsal.cost
    if is_estimate:
        fewest, most, low, high = cost_range(setup, workload, role, now)
    later = rehearsal.later
    return {
        "texts": rehearsal.texts,
        "served": rehearsal.served,
        "left": rehearsal.left,
        "tokens": rehearsal.tokens,
        "tokens_low": fewest.tokens,
        "tokens_high": most.tokens,
        "requests": rehearsal.requests,
        "cost_usd": _amount(rehearsal.cost),
        "cost_low_usd": _amount(low),
        "cost_high_usd": _amount(high),
        "is_estimate": is_estimate,
        "seconds": round(rehearsal.seconds, 1),
        "request_seconds_assumed": REQUEST_SECONDS,
        "later": None
        if later is None
        else {
            "begins": datetime.fromtimestamp(later.begins, timezone.utc).isoformat(" ", "seconds"),
            "seconds": round(later.seconds),
            "cost_usd": _amount(later.cost),
            "is_extrapolated": later.is_extrapolated,
        },
    }


def print_plan(plan: dict[str, Any]) -> None:
    """The same for people, in 80 columns."""
    job = plan.get("job")
    asked = [entry for entry in plan["offers"] if entry["serves"]]
    used = [entry for entry in asked if entry.get("requests")] if job else asked
    figures = ["tokens", "requests", "cost_usd"] if job else []
    titles = {"tokens": "Tokens", "requests": "Requests", "cost_usd": "USD"}
    role = {"query": "queries", "document": "documents"}[plan["role"]]
    print_text(f"{plan['space']}, {role}:")
    print_table(
        [
            Column("", right=True),
            "Offer",
            *(Column(titles[name], right=True) for name in figures),
            "Terms",
        ],
        [
            (
                place,
                _name(entry),
                *(_figure(entry[name]) for name in figures),
                _note(entry),
            )
            for place, entry in enumerate(used, 1)
        ],
        empty=f"no offer serves {plan['space']}" + (" for this job" if job else ""),
    )
    if job:
        _print_job(job)
    for entry in plan["offers"]:
        if entry not in used:
            print_text(f"left out: {_name(entry)}: {entry['reason']}")
        elif entry["reason"]:
            print_text(f"no more at {_name(entry)}: {entry['reason']}")
    if plan["unclaimed"]:
        tiers = ", ".join(f"{name} ({what})" for name, what in plan["unclaimed"].items())
        print_text(f"free tiers not claimed: {tiers}: add free = true under [providers.NAME]")


def _print_job(job: dict[str, Any]) -> None:
    requests = "1 request" if job["requests"] == 1 else f"{job['requests']:,} requests"
    said = f"all together: {job['tokens']:,} tokens, {requests}, "
    said += f"{_dollars(job['cost_usd'])} USD"
    if job["is_estimate"]:
        said += (
            f"; by estimate: {_dollars(job['cost_low_usd'])} to "
            f"{_dollars(job['cost_high_usd'])} USD for "
            f"{job['tokens_low']:,} to {job['tokens_high']:,} tokens"
        )
    print_text(said)
    if job["served"]:
        each = f"if every offer answers, each request in {job['request_seconds_assumed']:g} s"
        print_text(f"time: {duration(job['seconds'])}, {each} (assumed)")
    if not job["left"]:
        return
    left = f"now {job['served']:,} of {job['texts']:,} texts; {job['left']:,} are left"
    later = job["later"]
    if later is None:
        print_text(f"{left}, and nothing says when more would be served")
        return
    print_text(
        f"{left}: from {later['begins'][:16]} UTC on, {duration(later['seconds'])}"
        f"{' at that pace' if later['is_extrapolated'] else ''}, {_dollars(later['cost_usd'])} USD"
    )


def _note(entry: dict[str, Any]) -> str:
    notes = [entry["terms"]]
    if entry["verdict"] is not None:
        notes.append(f"measured: {entry['verdict']['reason']}")
    elif not entry["introduced"]:
        own = entry.get("introduction_tokens")
        notes.append(f"{own:,} tokens to be introduced" if own else "will be introduced first")
    return "; ".join(notes)


def _figure(value: int | str) -> str:
    return _dollars(value) if isinstance(value, str) else f"{value:,}"


def _name(entry: dict[str, Any]) -> str:
    """The provider's: the model is that of all."""
    return str(entry["offer"]).partition("/")[0]


def _granted(grant: Grant) -> str:
    if grant.usd is not None:
        return f"{grant.usd:f} USD"
    if grant.tokens is not None:
        return f"{grant.tokens:,} tokens"
    return f"{grant.tokens_per_day or 0:,} tokens a day"


def _amount(usd: Decimal) -> str:
    """US dollars for programs, to a hundred-millionth."""
    return f"{usd:.8f}"


def _dollars(amount: str) -> str:
    """The same for people, to a hundredth of a cent; what is less is not nothing."""
    usd = Decimal(amount)
    return f"{usd:.4f}" if usd == 0 or usd >= Decimal("0.001") else f"{usd:.2g}"


def _day(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, timezone.utc):%Y-%m-%d}"


def duration(seconds: float) -> str:
    """About how long, with no more precision than such a guess has.

    >>> duration(0.2), duration(170), duration(90_000), duration(4e6), duration(2e8)
    ('about 1 s', 'about 3 min', 'about 25 h', 'about 46 days', 'about 6 years')
    """
    for size, unit, most in ((1, "s", 90), (60, "min", 90), (3600, "h", 48), (86_400, "days", 730)):
        count = max(1, round(seconds / size))
        if count <= most:
            return f"about {count} {unit}"
    return f"about {round(seconds / (365.25 * 86_400))} years"
