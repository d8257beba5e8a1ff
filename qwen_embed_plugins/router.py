"""The router: what the flows of one embedder share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

from qwen_embed_plugins.calibration import Calibration
from qwen_embed_plugins.call import EmbedCall
from qwen_embed_plugins.canary import Canaries
from qwen_embed_plugins.catalogue import Catalogue, ConfiguredOffer, WayOut
from qwen_embed_plugins.effects import Flow, Recall, Wake
from qwen_embed_plugins.errors import ConfigurationError, without_secrets
from qwen_embed_plugins.events import Event
from qwen_embed_plugins.health import Health, Paused
from qwen_embed_plugins.pacing import Pacing
from qwen_embed_plugins.parity import Parity
from qwen_embed_plugins.places import Places
from qwen_embed_plugins.reading import Unread
from qwen_embed_plugins.routing import Candidate, Policy
from qwen_embed_plugins.spaces import EmbeddingSpace
from qwen_embed_plugins.tariffs import Tariffs
from qwen_embed_plugins.tokens import TokenCounter, estimate_tokens
from qwen_embed_plugins.types import EmbedResult, Role

RECALL_SECONDS = 60.0
"""How long a verdict of another process (`qwen-embed verify`) may go unnoticed in this one."""


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """What one call asks for. Its texts are distinct, and none is empty.

    `others_served` says that further texts of the caller's have their vectors already: when no
    offer is left, that is then an error of each text and not of the call. `report` is told which
    texts have a vector or an error for good, as they come.
    """

    texts: Sequence[str]
    role: Role
    space: EmbeddingSpace
    instruction: str | None = None
    others_served: bool = False
    report: Callable[[Sequence[str]], None] | None = None


@dataclass(slots=True)
class Router:
    """What the flows of one embedder share. Values and in-memory state, no I/O."""

    catalogue: Catalogue
    policy: Policy
    query_policy: Policy
    health: Health
    capabilities: dict[tuple[str, str], str]
    now: Callable[[], float]
    emit: Callable[[Event], None]
    parity: Parity
    canaries: Canaries
    ways_out: Callable[[Collection[str]], Sequence[WayOut]] = lambda without: ()
    """Which other models would cost nothing, without these providers. Asked when none is left."""

    count_tokens: TokenCounter = estimate_tokens
    """Our own count of a text's tokens."""

    count_ahead: Callable[[Sequence[str]], None] | None = None
    """Makes `count_tokens` quick for these texts; None where it always is. May take long."""

    min_parity: float = 0.98
    concurrency: int = 8
    timeout_seconds: float = 60.0
    spill_after_seconds: float = 2.0
    spill_to_paid: bool = False
    miscounting: set[str] = field(default_factory=set)
    unread: dict[str, Unread] = field(default_factory=dict)
    places: Places = field(default_factory=Places)
    pacing: Pacing = field(default_factory=Pacing)
    tariffs: Tariffs = field(default_factory=lambda: Tariffs(budgeted=False))
    job_ids: Iterator[int] = field(default_factory=count)
    recalled_at: float = field(init=False)
    calibration: Calibration = field(init=False)

    def __post_init__(self) -> None:
        self.recalled_at = self.now()
        # What corrects an estimate does not correct a tokenizer's count.
        name = "tokens_per_estimate" if self.count_ahead is None else "tokens_per_count"
        self.calibration = Calibration(self.capabilities, name)

    def likely_tokens(self, offer: ConfiguredOffer, tokens: int) -> int:
        """How many tokens the offer's provider is likely to count where we count so many."""
        if offer.key in self.miscounting:
            return tokens
        return self.calibration.corrected(offer.endpoint, tokens)

    def recall(self) -> Flow[None]:
        """Once in a while, heed what other processes found meanwhile: a worker runs for weeks."""
        now = self.now()
        # A clock that was set back must not put it off for ever.
        if 0 <= now - self.recalled_at < RECALL_SECONDS:
            return
        self.recalled_at = now
        recalled = yield Recall(self.catalogue.model.name)
        if recalled is not None:
            self.parity.heed(recalled.verdicts, recalled.probes)

    def flow(self, request: EmbedRequest, wake: Wake) -> Flow[EmbedResult]:
        """The flow of one call. It raises `NoOfferLeft` or `BudgetExceeded` when no text at all
        got a vector and none is to blame for it."""
        return EmbedCall(self, request, wake).run()

    def ranked(self, role: Role) -> list[ConfiguredOffer]:
        """The offers in the order in which this role asks them."""
        policy = self.query_policy if role == "query" else self.policy
        now = self.now()
        candidates = [
            Candidate(
                offer, self.health.latency_seconds(offer.key, role), self.tariffs.of(offer, now)
            )
            for offer in self.catalogue.offers
            if role in offer.serve and self.tariffs.serves(offer, now)
        ]
        try:
            # Only what it was given: a policy ranks and leaves out, it does not make offers.
            return [candidates[candidates.index(chosen)].offer for chosen in policy(candidates)]
        except Exception as error:
            name = getattr(policy, "__name__", "the policy")
            said = without_secrets(f"{type(error).__name__}: {error}")
            raise ConfigurationError(
                f"policy {name} must give the candidates in some order ({said}); choose another "
                "policy"
            ) from error

    def most_at_once(self, offer: ConfiguredOffer) -> int:
        """How many requests may be under way at an offer, however well it takes them."""
        return min(self.concurrency, offer.offer.max_concurrency or self.concurrency)

    def places_at(self, offer: ConfiguredOffer) -> int:
        """How many requests may be under way at an offer now. After a failure a single one goes
        ahead and shows whether it is over."""
        doubtful = self.health.is_doubtful(offer.key) or self.health.is_doubtful(offer.account)
        return 1 if doubtful else self.pacing.places(offer.key, self.most_at_once(offer))

    def pause(self, offer: ConfiguredOffer) -> Paused | None:
        """The pause that an offer is in, by itself or with its account."""
        now = self.now()
        return self.health.paused(offer.key, now) or self.health.paused(offer.account, now)
