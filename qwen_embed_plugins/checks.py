"""What came back, against what was sent: the checks before anything of an answer is believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from qwen_embed_plugins.effects import Finished
from qwen_embed_plugins.spaces import squared_lengths
from qwen_embed_plugins.types import Fault, FaultKind
from qwen_embed_plugins.vectors import BadAnswer, as_matrix, equal_rows, row_faults

REFUSALS: frozenset[FaultKind] = frozenset({"bad_input", "too_large", "bad_vector"})
"""What a provider says of the texts. (A bad vector that only we noticed is the offer's failure.)"""


@dataclass(frozen=True, slots=True)
class Checked:
    """An answer after the checks: a fault, or the matrix with what is wrong in single rows.

    `squares` are the squared lengths of the part of each row that will be kept. `refuses_texts`
    says that the fault is an objection to what was sent; other faults are the offer's own failures.
    """

    fault: Fault | None = None
    refuses_texts: bool = False
    matrix: Any = None
    squares: Any = None
    bad_rows: Mapping[int, str] = field(default_factory=dict)
    doubtful_rows: Sequence[int] = ()
    answered_in_floats: bool = False

    def last_row(self) -> Any | None:
        """The last row, None if it is bad."""
        last = len(self.matrix) - 1
        return None if last in self.bad_rows else self.matrix[last]

    def without_last_row(self) -> Checked:
        """The same without the last row, which was not the call's."""
        last = len(self.matrix) - 1
        return replace(
            self,
            matrix=self.matrix[:last],
            squares=self.squares[:last],
            bad_rows={row: said for row, said in self.bad_rows.items() if row != last},
            doubtful_rows=[row for row in self.doubtful_rows if row != last],
        )


def examine(finished: Finished, dimensions: int) -> Checked:
    """Check what came back against what was sent, for vectors that will be cut to `dimensions`."""
    if isinstance(finished.outcome, Fault):
        return Checked(finished.outcome, finished.outcome.kind in REFUSALS)
    answer, offer = finished.outcome, finished.job.offer
    model = offer.model
    count_ = len(finished.job.batch.texts)
    try:
        matrix = as_matrix(answer.vectors, count_, offer.dimensions, model.name)
    except BadAnswer as error:
        return Checked(Fault("bad_vector", str(error)))
    squares = squared_lengths(matrix[:, :dimensions])
    bad_rows = row_faults(matrix, dimensions, dense=model.dense, kept=squares)
    if len(bad_rows) == count_ > 1:
        return Checked(Fault("bad_vector", f"in all {count_} answers {bad_rows[0]}"))
    doubtful_rows = equal_rows(matrix, model)
    if len(doubtful_rows) == count_ > 2:
        return Checked(Fault("bad_vector", f"all {count_} texts got the same vector"))
    in_floats = answer.encoding == "float"
    return Checked(None, False, matrix, squares, bad_rows, doubtful_rows, in_floats)
