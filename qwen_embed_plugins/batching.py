"""How much of a piece one request holds. Pure: texts and limits in, pieces out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from qwen_embed_plugins.bisect import Piece
from qwen_embed_plugins.catalogue import ConfiguredOffer
from qwen_embed_plugins.tokens import TokenCounter


def cut(
    piece: Piece,
    texts: Sequence[str],
    offer: ConfiguredOffer,
    max_inputs: int,
    max_tokens: int | None,
    count: TokenCounter,
) -> tuple[Piece, Piece | None]:
    """The part of a piece that one request to the offer may hold, and the rest.

    `texts` are the piece's, or only the first `max_inputs` of them; `max_tokens` is what a grant
    has left. A part of a split goes whole, since it fitted before it was split.
    """
    if not is_cuttable(piece):
        return piece, None
    size = batch_size(texts, offer, max_inputs, count)
    size = _within(max_tokens, map(count, texts[:size]), size)
    if size >= len(piece.places):
        return piece, None
    rest = piece.places[size:]
    return (
        replace(piece, places=piece.places[:size]),
        replace(piece, places=rest, failures=0, bare=False),
    )


def is_cuttable(piece: Piece) -> bool:
    """Whether a part of it may go alone."""
    return piece.split is None and not piece.probe


def batch_size(
    texts: Sequence[str], offer: ConfiguredOffer, max_inputs: int, count: TokenCounter
) -> int:
    """How many of the texts, from the first on, fit into one request; at least one."""
    size = _within(offer.max_batch_tokens, map(count, texts[:max_inputs]), max_inputs)
    return _within(offer.offer.max_batch_bytes, map(_bytes_in_json, texts[:size]), size)


def _within(limit: int | None, amounts: Iterable[int], size: int) -> int:
    """How many of the amounts together keep to a limit; at least one."""
    if limit is None:
        return size
    total = 0
    for number, amount in enumerate(amounts):
        total += amount
        if total > limit:
            return max(1, number)
    return size


def _bytes_in_json(text: str) -> int:
    """About what a text adds to a request's body: its bytes, quotes and a comma."""
    return len(text.encode()) + 3


def set_long_apart(
    piece: Piece,
    texts: Callable[[Piece], Sequence[str]],
    offer: ConfiguredOffer,
    others: Callable[[Piece], Sequence[ConfiguredOffer]],
    count: TokenCounter,
) -> tuple[Piece, Piece | None]:
    """Part a piece into what suits the offer and what looks too long for it, if one of the others
    takes longer texts.

    An estimate routes and never refuses: without such an offer all stay together, and the
    provider's own answer decides. `texts` gives those of a piece, and `others` the offers that it
    may go to; `texts` is asked once for an offer, since with each batch the work would grow with
    the square of a call.
    """
    limit = offer.offer.max_input_tokens
    if limit is None or piece.split is not None or piece.is_ours:
        return piece, None
    if offer.key in piece.avoid or offer.key in piece.fits:
        return piece, None
    piece = replace(piece, fits=piece.fits | {offer.key})
    is_long = [count(text) > limit for text in texts(piece)]
    if not any(is_long) or not any(_takes_longer(other, limit) for other in others(piece)):
        return piece, None
    pairs = list(zip(piece.places, is_long, strict=True))
    long_places = tuple(place for place, long in pairs if long)
    return (
        replace(piece, places=tuple(place for place, long in pairs if not long)),
        replace(piece, places=long_places, avoid=piece.avoid | {offer.key}),
    )


def _takes_longer(offer: ConfiguredOffer, limit: int) -> bool:
    return offer.offer.max_input_tokens is None or offer.offer.max_input_tokens > limit
