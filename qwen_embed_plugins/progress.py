"""How far a call is, told to whoever asked for it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from qwen_embed_plugins.types import OnProgress

log = logging.getLogger("qwen_embed_plugins")


class Progress:
    """Counts the texts of one call that are done, in the caller's own list: equal texts are sent
    once and count each. `positions` has the places of each distinct text, `unusable` is how many
    texts can be sent to nobody and are done from the beginning.

    What the function raises is logged, and it is not called again: the vectors that are still to
    come are paid for, and a broken display must not lose them.
    """

    def __init__(
        self, on_progress: OnProgress, positions: Mapping[str, Sequence[int]], unusable: int
    ) -> None:
        self._tell: OnProgress | None = on_progress
        self._positions = positions
        self._done = 0
        self._total = unusable + sum(map(len, positions.values()))
        if unusable:
            self._add(unusable)

    def done(self, texts: Sequence[str]) -> None:
        """These distinct texts have a vector, or an error, for good."""
        if texts:
            self._add(sum(len(self._positions[text]) for text in texts))

    def _add(self, count: int) -> None:
        self._done += count
        if self._tell is None:
            return
        try:
            self._tell(self._done, self._total)
        except Exception:
            self._tell = None
            log.warning("on_progress failed and is not called again", exc_info=True)
