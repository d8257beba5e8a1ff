"""From the caller's list to a request and back: what cannot be sent, and what is sent once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from qwen_embed_plugins.effects import Aside, Flow, Wake
from qwen_embed_plugins.errors import InvalidInput, PartialFailure, shown
from qwen_embed_plugins.progress import Progress
from qwen_embed_plugins.router import EmbedRequest
from qwen_embed_plugins.spaces import EmbeddingSpace
from qwen_embed_plugins.types import (
    EmbedResult,
    Kept,
    Maker,
    OnProgress,
    Role,
    TextError,
    Usage,
)

if TYPE_CHECKING:
    from qwen_embed_plugins.router import Router
    from qwen_embed_plugins.types import Matrix, Vector
    from qwen_embed_plugins.vector_cache import VectorCache


class Planned(NamedTuple):
    """A call before it runs: its request, and where each distinct text stood in the list."""

    request: EmbedRequest
    positions: list[list[int]]
    unusable: list[TextError]
    total: int


def plan(
    texts: Sequence[Any],
    role: Role,
    space: EmbeddingSpace,
    instruction: str,
    on_progress: OnProgress | None = None,
) -> Planned:
    """Sort out what cannot be sent, and send equal texts once.

    Raises `InvalidInput` for what is not a list of strings; an empty text, or one that is not
    valid Unicode, becomes an error of its own and harms no other.
    """
    if isinstance(texts, (str, bytes)):
        raise InvalidInput(f"expected a list of strings, got {shown(texts)}; put it in a list")
    if role not in ("query", "document"):
        raise InvalidInput(f'role = {shown(role)}: expected "query" or "document"')
    _check_instruction(instruction)
    places: dict[str, list[int]] = {}
    unusable: list[TextError] = []
    try:
        texts = list(texts)
    except TypeError:
        raise InvalidInput(f"expected a list of strings, got {shown(texts)}") from None
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            kind = type(text).__name__
            raise InvalidInput(
                f"the text at position {position} is of type {kind}, expected a string",
                position=position,
            )
        problem = _problem(position, text)
        if problem:
            unusable.append(problem)
        else:
            places.setdefault(text, []).append(position)
    request = EmbedRequest(
        tuple(places),
        role,
        space,
        instruction if role == "query" else None,
        report=Progress(on_progress, places, len(unusable)).done if on_progress else None,
    )
    return Planned(request, list(places.values()), unusable, len(texts))


def _check_instruction(instruction: Any) -> None:
    """Refuse what no provider could be sent, before an offer is blamed for it."""
    if not isinstance(instruction, str):
        raise InvalidInput(f"instruction = {shown(instruction)}: expected a string")
    if _problem(0, instruction + "."):
        raise InvalidInput("the instruction is not valid Unicode: it has a lone surrogate")


def _problem(position: int, text: str) -> TextError | None:
    if not text.strip():
        return TextError(position, "empty", "the text is empty")
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            said = f"not valid Unicode: a lone surrogate at character {error.start}"
            return TextError(position, "bad_input", said)
    return None


def serve(
    request: EmbedRequest, router: Router, wake: Wake, cache: VectorCache | None
) -> Flow[EmbedResult]:
    """The flow of one call. Where vectors are kept, only texts that are not known are sent."""
    if cache is None:
        return (yield from _send(request, router, wake))
    yield from router.recall()
    began, parity = router.now(), router.parity
    key = (request.space, request.role, request.instruction)
    known = yield Aside(partial(cache.look_up, *key, request.texts, parity.believed_since))
    if request.report is not None:
        request.report([request.texts[place] for place in known])
    rest = _without(request, known)
    if not rest.texts:
        return _joined(request, known, None)
    result = yield from _send(rest, router, wake)
    by_key = {offer.key: offer for offer in router.catalogue.offers}
    makers = {
        place: Maker(offer.key, offer.endpoint, offer.is_proven_by_name)
        for place, offer in enumerate(by_key.get(name or "") for name in result.offers)
        # One may have been found out after it served this very call.
        if offer is not None and parity.refuses(offer) is None
    }
    yield Aside(partial(cache.keep, *key, rest.texts, result.vectors, makers, began))
    return _joined(request, known, result)


def _send(request: EmbedRequest, router: Router, wake: Wake) -> Flow[EmbedResult]:
    """The router's flow, whose decisions take no time, after what does."""
    if router.count_ahead is not None:
        yield Aside(partial(router.count_ahead, request.texts))
    return (yield from router.flow(request, wake))


def _without(request: EmbedRequest, known: Mapping[int, Kept]) -> EmbedRequest:
    """What is left of a request to be sent."""
    if not known:
        return request
    texts = tuple(text for place, text in enumerate(request.texts) if place not in known)
    return replace(request, texts=texts, others_served=True)


def _joined(
    request: EmbedRequest, known: Mapping[int, Kept], result: EmbedResult | None
) -> EmbedResult:
    """The result for all texts of a request, from what was known and the result for the rest."""
    import numpy as np

    if result is not None and not known:
        return result
    count = len(request.texts)
    sent = [place for place in range(count) if place not in known]
    vectors = np.full((count, request.space.dimensions), np.nan, np.float32)
    offers: list[str | None] = [None] * count
    for place, (vector, offer) in known.items():
        vectors[place], offers[place] = vector, offer
    if result is None:
        joined = EmbedResult(vectors, (), request.space, Usage(), Decimal(0), (), tuple(offers))
    else:
        vectors[sent] = result.vectors
        for place, name in zip(sent, result.offers, strict=True):
            offers[place] = name
        errors = tuple(error._replace(position=sent[error.position]) for error in result.errors)
        joined = replace(result, vectors=vectors, offers=tuple(offers), errors=errors)
    return replace(joined, usage=replace(joined.usage, texts=count - len(joined.errors)))


def spread(planned: Planned, result: EmbedResult) -> EmbedResult:
    """The result for the list as it was passed, from the one for its distinct texts."""
    import numpy as np

    if not planned.unusable and len(planned.positions) == planned.total:
        return result
    vectors = np.full((planned.total, planned.request.space.dimensions), np.nan, np.float32)
    offers: list[str | None] = [None] * planned.total
    for row, positions in enumerate(planned.positions):
        vectors[positions] = result.vectors[row]
        for position in positions:
            offers[position] = result.offers[row]
    errors = planned.unusable + [
        error._replace(position=position)
        for error in result.errors
        for position in planned.positions[error.position]
    ]
    return replace(
        result,
        vectors=vectors,
        offers=tuple(offers),
        errors=tuple(sorted(errors)),
        usage=replace(result.usage, texts=planned.total - len(errors)),
    )


def whole(result: EmbedResult) -> Matrix:
    """The vectors, all of them; `PartialFailure` if a text has none."""
    if not result.errors:
        return result.vectors
    first = result.errors[0]
    more = f" (and {len(result.errors) - 1} more)" if len(result.errors) > 1 else ""
    kept = "; the others are in .result" if len(result.errors) < len(result.vectors) else ""
    raise PartialFailure(
        f"{len(result.errors)} of {len(result.vectors)} texts have no vector: the one at position "
        f"{first.position}: {first.kind}: {first.message}{more}{kept}",
        result=result,
    )


def require_query(text: object) -> None:
    """Raise `InvalidInput` for an empty query, before anything is made ready for it."""
    if isinstance(text, str) and not text.strip():
        raise _empty_query()


def _empty_query() -> InvalidInput:
    return InvalidInput("the query is empty; pass some text")


def only(result: EmbedResult) -> Vector:
    """The one vector of a query; `InvalidInput` or `PartialFailure` if there is none."""
    if result.errors and result.errors[0].kind == "empty":
        raise _empty_query()
    vector: Vector = whole(result)[0]
    return vector
