"""Values of groups that were found before, beside methods that are measured by leaving groups out.

They predict nothing: trainings without each group are among those that values are of. How far the
two agree says how much one coalition, that of all others, tells of the mean over all.

G group, Q query.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.evaluation.contenders import COALITIONS, Contender
from rayinfluence.evaluation.leave_out import agreement
from rayinfluence.evaluation.referees import GROUPS, GROUPS_BY_VALUE, Figures
from rayinfluence.evaluation.shapley.hidden import NEIGHBOURS
from rayinfluence.evaluation.table import Row
from rayinfluence.storage.results.valued import Valued

#: What to say of them.
NOTE = (
    "{names}: values of `rayinfluence shapley`, of trainings among which those without each group "
    "are; that they agree is no prediction."
)


def valued_rows(
    found: Valued | None,
    recipe: str,
    names: Sequence[str],
    queries: Sequence[EncodedQuery],
    measured_GQ: NDArray[np.float64],
) -> list[Row]:
    """A row for each kind of values; none where they are of another recipe or of other groups.

    Args:
        found: values that the run directory has.
        recipe: digest of how models were trained, the corpus among it.
        names: of the groups that were left out [G].
        queries: that are asked [Q]; agreement is NaN for those that there are no values of.
        measured_GQ: what leaving each group out did.
    """
    if found is None or found.recipe != recipe:
        return []
    groups = {one.name: place for place, one in enumerate(found.groups)}
    if not set(names) <= groups.keys():
        return []
    columns = {one.digest: place for place, one in enumerate(found.utilities) if one.digest}
    rows = []
    for method in found.methods:
        if method.how == NEIGHBOURS:  # measured as a contender of its own
            continue
        values_GQ = np.full(measured_GQ.shape, np.nan)
        for q, query in enumerate(queries):
            for g, name in enumerate(names):
                place = columns.get(query.digest)
                cell = None if place is None else method.values[groups[name]][place]
                values_GQ[g, q] = np.nan if cell is None else cell.mean
        agreed = agreement(values_GQ, measured_GQ)
        by_query = {GROUPS: agreed.spearman_Q, GROUPS_BY_VALUE: agreed.pearson_Q}
        rows.append(
            Row(
                Contender(method.name, COALITIONS),
                None,
                np.full(len(queries), np.nan),
                Figures((), by_query, None),
            )
        )
    return rows
