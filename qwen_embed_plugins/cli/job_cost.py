"""What a backfill or a move would cost, and the question before it is begun."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import click

from qwen_embed_plugins.cli.output import print_line
from qwen_embed_plugins.errors import ConfigurationError

if TYPE_CHECKING:
    from qwen_embed_plugins.postgres import BackfillEstimate
    from qwen_embed_plugins.settings import Settings


@dataclass(frozen=True, slots=True)
class JobCost:
    """An estimate with what the router, rehearsed, makes of it: `usd` is what would be paid beyond
    grants, `seconds` how long it takes; None where no offer is set up here for that space."""

    estimate: BackfillEstimate
    space: str
    usd: Decimal | None
    seconds: float | None
    reason: str | None
    served: int | None

    def as_dict(self) -> dict[str, Any]:
        """For `--json`; the sampled texts themselves are nobody's business."""
        said = {**asdict(self.estimate), "space": self.space, "usd": self.usd}
        del said["sample"]
        return {**said, "seconds": self.seconds, "served": self.served, "reason": self.reason}


def job_cost(estimate: BackfillEstimate, settings: Settings) -> JobCost:
    """Rehearse the router with a job of that size, in the space of these settings.

    Raises `ConfigurationError` for a model that nobody knows or a length that it does not give.
    """
    from qwen_embed_plugins.rehearsal import Workload, rehearse
    from qwen_embed_plugins.setup import Setup

    space = f"{settings.model}/{settings.dimensions}"
    setup = Setup.make(settings, None)
    if not estimate.texts:
        return JobCost(estimate, space, Decimal(0), 0.0, None, 0)
    try:
        workload = Workload(estimate.texts, estimate.tokens)
        rehearsed = rehearse(setup, workload, "document", time.time())
    except ConfigurationError as error:
        return JobCost(estimate, space, None, None, str(error), None)
    if not rehearsed.served:
        reasons = {**setup.catalogue.left_out, **rehearsed.reasons}
        nobody = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        return JobCost(estimate, space, None, None, nobody or "no offer is set up", None)
    usd = sum((share.cost for share in rehearsed.shares), Decimal(0))
    reason = None
    if rehearsed.served < rehearsed.texts:
        reason = next(iter(rehearsed.reasons.values()), "no offer takes the rest")
    later = rehearsed.later
    if later is not None:
        usd += later.cost
    seconds = rehearsed.seconds if later is None else later.begins + later.seconds - time.time()
    return JobCost(estimate, space, usd, seconds, reason, rehearsed.served)


def say(cost: JobCost) -> None:
    """One or two lines about a job."""
    estimate = cost.estimate
    about = "" if estimate.is_exact else "about "
    print_line(
        f"{estimate.name}: {about}{estimate.rows:,} rows, {about}{estimate.texts:,} texts to embed "
        f"with about {estimate.tokens:,} tokens as {cost.space}"
    )
    if cost.usd is None or cost.seconds is None:
        print_line(f"What that costs is not known here: {cost.reason}")
        return
    paid = f"{cost.usd:.4f} USD" if cost.usd else "nothing"
    print_line(f"That costs {paid} and takes {_duration(cost.seconds)}, on a fair day")
    if cost.reason is not None:
        print_line(f"Of it {cost.served:,} texts can be served now. The rest waits: {cost.reason}")


def _duration(seconds: float) -> str:
    if seconds < 60:
        return "less than a minute"
    for size, unit in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 1.5 * size:
            return f"about {seconds / size:,.0f} {unit}"
    return "about a minute"


def require_consent(cost: JobCost, *, ask_above_usd: Decimal, yes: bool) -> None:
    """Ask before money is spent; without a terminal to ask on, `--yes` is needed."""
    if yes or cost.usd is None or cost.usd <= ask_above_usd:
        return
    if not sys.stdin.isatty():
        raise ConfigurationError(
            f"this would cost about {cost.usd:.4f} USD, more than {ask_above_usd} USD: repeat it "
            "with --yes, or with a higher --ask-above"
        )
    click.confirm("Begin?", abort=True, err=True)
