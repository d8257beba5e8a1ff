"""How far an offer reads: many servers cut a long text without a word, and say nothing of it.

Two long texts that begin alike and end differently have two vectors, unless the server stops
reading before their ends. So before a text goes to an offer that is not known to refuse what is
too long, the offer is asked for such a pair that begins alike for longer than that text; the answer
is remembered. The second sign is the provider's own count of tokens, at serving.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from qwen_embed_plugins.parity import cosines

if TYPE_CHECKING:
    from qwen_embed_plugins.tokens import TokenCounter
    from qwen_embed_plugins.types import Matrix

LENGTHS = (560, 1_100, 2_200, 4_400, 8_800, 17_500)
"""Tokens that the two texts share: just beyond the lengths at which servers cut (512, 1,024, …)."""

SAFELY_SHORT = 512
"""No server of these models is known to cut at fewer tokens."""

WITHIN = 0.6
"""Of an offer's limit: so far a pair fits whole for certain, whatever its tokenizer counts."""

BEYOND = 1.3
"""Of an offer's limit: so long a pair fits nowhere. Who takes it whole without a word cuts."""

OVER_ESTIMATE = 1.5
"""How many tokens a text may have for each estimated one. Counted with Qwen's tokenizer, prose in
nine languages, code and JSON had 0.7 to 2.3; digits and base64, up to 4, are rarely long texts."""

SAME_VECTOR = 0.9995
"""Texts of which a fifth differs are further apart; one cut text sent twice differs by rounding."""

ENDING = 0.25
"""How long the differing ends are, of the shared part."""

COMMON_CAPS = frozenset({512, 1024, 2048, 4096, 8192, 16384, 32768})

# Counted with Qwen's tokenizer: 60 tokens, and about 50 for each of the ends.
_SHARED = (
    "The road to the village follows the river for two hours, crosses it by a stone bridge, and "
    "climbs through old orchards to a square with a fountain. On market days farmers bring cheese, "
    "apples and honey there, children chase the pigeons, and the smith opens both doors of his "
    "workshop. "
)
_ENDS = (
    "A telescope gathers faint light with a curved mirror and brings it to a focus, where a camera "
    "counts the photons of distant galaxies through the night; astronomers correct the image for "
    "the trembling of the air and compare its colours with those of known elements. ",
    "The contract of sale obliges the seller to hand over the goods and the buyer to pay in time; "
    "whoever is late owes interest on the sum, and disputes between the two parties are always "
    "settled before the court of the place where the delivery was due. ",
)
TOKENS_OF_SHARED = 60
TOKENS_OF_END = 50

FIRST_PAUSE_SECONDS = 60.0
LONGEST_PAUSE_SECONDS = 3600.0
"""How long a pair is not sent again to an offer that failed at it: doubled each time."""


class Unread(NamedTuple):
    """A pair that an offer failed at: how long it was, how often in a row, and until when it is not
    sent again (seconds since the epoch)."""

    tokens: int
    times: int
    until: float

    @classmethod
    def after(cls, before: Unread | None, tokens: int, now: float) -> Unread:
        """The next failure in a row."""
        times = 1 if before is None else before.times + 1
        seconds = min(FIRST_PAUSE_SECONDS * 2.0 ** min(times - 1, 10), LONGEST_PAUSE_SECONDS)
        return cls(tokens, times, now + seconds)


@lru_cache(maxsize=4)
def pair(shared_tokens: int) -> tuple[str, str]:
    """Two texts that begin alike for at least so many tokens and then differ."""
    beginning = _SHARED * -(-shared_tokens // TOKENS_OF_SHARED)
    repeats = max(1, round(shared_tokens * ENDING / TOKENS_OF_END))
    first, second = _ENDS
    return beginning + first * repeats, beginning + second * repeats


def is_cut(vectors: Matrix) -> bool:
    """Whether the two vectors of a pair show that its ends were not read."""
    return bool(cosines(vectors[:1], vectors[1:])[0] >= SAME_VECTOR)


def length_to_prove(texts: Sequence[str], limit: int, count: TokenCounter) -> int:
    """How many shared tokens a pair must have to show that an offer with this limit reads these
    texts whole; 0 if they are too short to be cut."""
    return _proof_for(max(map(count, texts), default=0), limit)


def _proof_for(estimate: int, limit: int) -> int:
    longest = estimate * OVER_ESTIMATE
    if longest <= SAFELY_SHORT:
        return 0
    if longest > limit:
        return int(limit * BEYOND)
    within = int(limit * WITHIN)
    return next((length for length in LENGTHS if longest <= length < within), within)


def first_proof(limit: int) -> int:
    """The shortest proof: asked of every newcomer where there are several offers."""
    return min(LENGTHS[0], int(limit * WITHIN))


def shorter_proof(refused: int, limit: int) -> int:
    """The proof to ask for where one of so many tokens was refused: well below it, since the truth
    lies far below when a limit is stated too high; 0 if there is none shorter."""
    first = first_proof(limit)
    steps = [length for length in LENGTHS if first < length <= refused / 3]
    return max(steps, default=first if first < refused else 0)


def counted_less(
    texts: Sequence[str], tokens: int, caps: frozenset[int], count: TokenCounter
) -> str | None:
    """What a provider's count says of a cut: equal to a known cap, or under half of our own.

    None if the count shows nothing. Runs of one character count little: tokenizers have long
    tokens for them. `count` must not be corrected by what providers counted: one that cuts would
    set its own measure.
    """
    capped = len(texts) == 1 and tokens in caps
    if not capped and tokens * 2 >= sum(map(count, texts)):
        return None  # as nearly always; the rest costs more
    estimate = sum(count(_without_runs(text)) for text in texts)
    if estimate <= tokens or max(map(count, texts)) <= SAFELY_SHORT / 2:
        return None
    if tokens * 2 < estimate or capped:
        return f"it counted {tokens} tokens where about {estimate} were sent: it cuts long texts"
    return None


def counts_too_few(texts: Sequence[str], tokens: int, count: TokenCounter) -> bool:
    """Whether a count is under half of our own though every text is too short to be cut."""
    estimates = [*map(count, texts)]
    if max(estimates) > SAFELY_SHORT / 4 or tokens * 2 >= sum(estimates) - len(texts):
        return False
    return tokens * 2 < sum(count(_without_runs(text)) for text in texts) - len(texts)


def _without_runs(text: str) -> str:
    return re.sub(r"(.)\1{3,}", r"\1", text, flags=re.DOTALL)
