"""What came back, against what was sent: the checks before anything of an answer is believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qwen_embed_plugins.effects import Finished
from qwen_embed_plugins.types import Fault
from qwen_embed_plugins.vectors import BadAnswer, as_matrix, equal_rows, row_faults


@dataclass(frozen=True, slots=True)
class Checked:
    """An answer after the checks: a fault, or the matrix with what is wrong in single rows."""

    fault: Fault | None = None
    matrix: Any = None
    bad_rows: Mapping[int, str] = field(default_factory=dict)
    doubtful_rows: Sequence[int] = ()
    answered_in_floats: bool = False


def examine(finished: Finished, dimensions: int) -> Checked:
    """Check what came back against what was sent, for vectors that will be cut to `dimensions`."""
    if isinstance(finished.outcome, Fault):
        return Checked(finished.outcome)
    answer, offer = finished.outcome, finished.job.offer
    model = offer.model
    count_ = len(finished.job.batch.texts)
    try:
        matrix = as_matrix(answer.vectors, count_, offer.dimensions, model.name)
    except BadAnswer as error:
        return Checked(Fault("bad_vector", str(error)))
    bad_rows = row_faults(matrix, dimensions, dense=model.dense)
    if len(bad_rows) == count_ > 1:
        return Checked(Fault("bad_vector", f"in all {count_} answers {bad_rows[0]}"))
    doubtful_rows = equal_rows(matrix, model)
    if len(doubtful_rows) == count_ > 2:
        return Checked(Fault("bad_vector", f"all {count_} texts got the same vector"))
    return Checked(None, matrix, bad_rows, doubtful_rows, answer.encoding == "float")
