"""Documents that are token ids already: which of a row's are a text's, and where they are cut.

Pure arithmetic of places; tokens are T, of a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SEPARATE, ATTEND_ACROSS = "separate", "attend_across"
#: Columns beside ids that say what they are by their names, as transformers has them.
PADDING, POSITIONS = "attention_mask", "position_ids"
#: The label of what the loss passes over.
IGNORED = -100

Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class TokenForm:
    """How ids lie in their files, and which of them attended to each other in training.

    Attributes:
        column: of ids, in a format that has columns.
        dtype: of a file that is ids and nothing else; None where no such file is expected.
        packing: ``separate`` cuts rows into the documents that they are packed of;
            ``attend_across`` leaves them as they are.
        separator: the id between documents; None where none stands there.
        separator_at: whether it is the ``end`` of the document before it or the ``start`` of the
            one after.
        context: most tokens of a sequence.
        overlap: tokens that a window of a file has in common with the one before.
    """

    column: str
    dtype: str | None = None
    packing: str = ATTEND_ACROSS
    separator: int | None = None
    separator_at: str = "end"
    context: int = 0
    overlap: int = 0


@dataclass(frozen=True)
class TokenRow:
    """The ids of a row, without padding.

    Attributes:
        tokens_T: as above.
        counted_T: which of them the loss of training counted; None where nothing says so.
        positions_T: of each in its document; None where nothing says so.
    """

    tokens_T: Ids
    counted_T: Mask | None = None
    positions_T: Ids | None = None

    def part(self, start: int, end: int) -> TokenRow:
        """Those from one place to another."""
        counted, positions = self.counted_T, self.positions_T
        return TokenRow(
            self.tokens_T[start:end],
            None if counted is None else counted[start:end],
            None if positions is None else positions[start:end],
        )


def tokens_of(row: Mapping[str, Any], column: str, counted: str | None = None) -> TokenRow | str:
    """The ids of a row, or why it has none.

    Args:
        row: by column. A column ``attention_mask`` says what is padding, ``position_ids`` where
            documents begin.
        column: of the ids.
        counted: the column of what the loss counted: labels, each the token of its own place or
            -100, or a mask of 0 and 1.
    """
    tokens = _integers(row.get(column))
    if tokens is None:
        return f"{column!r} is not a list of token ids"
    if len(tokens) and tokens.min() < 0:
        place = int(np.argmin(tokens >= 0))
        return f"{column!r} has {tokens[place]} at place {place}, and no token id is negative"
    beside: dict[str, Ids] = {}
    for name in (PADDING, POSITIONS, counted):
        if name is None or (name != counted and row.get(name) is None):
            continue
        values = _integers(row.get(name), bools=True)
        if values is None:
            return f"{name!r} is not a list of whole numbers, one for each token id"
        if len(values) != len(tokens):
            return f"{name!r} has {len(values):,} values for {len(tokens):,} token ids"
        beside[name] = values
    masks = None
    if counted is not None:
        said = _counted(tokens, beside[counted])
        if isinstance(said, str):
            return f"{counted!r} {said}"
        masks = said
    found = TokenRow(tokens, masks, beside.get(POSITIONS))
    if PADDING not in beside:
        return found
    real = _within(beside[PADDING])
    return f"{PADDING!r} {real}" if isinstance(real, str) else found.part(*real)


def cuts_of(row: TokenRow, form: TokenForm) -> list[tuple[int, int]] | str:
    """Where the documents of a row begin and end, or why that cannot be told.

    Positions that begin again say it, and a separator where there are none.
    """
    n_tokens = len(row.tokens_T)
    if form.packing == ATTEND_ACROSS:
        return [(0, n_tokens)]
    if row.positions_T is not None:
        places = np.flatnonzero(row.positions_T == 0)
    elif form.separator is None:
        return (
            f"has no {POSITIONS!r}, and corpus.tokens.separator is not set, so that nothing says "
            "where its documents end"
        )
    else:
        places = borders(row.tokens_T, form)
    ends = [int(place) for place in places if 0 < place < n_tokens] + [n_tokens]
    return list(zip([0, *ends[:-1]], ends, strict=True))


def borders(tokens_T: Ids, form: TokenForm) -> NDArray[np.intp]:
    """Places before which a document begins, by the separator."""
    return np.flatnonzero(tokens_T == form.separator) + (form.separator_at == "end")


def _integers(value: Any, bools: bool = False) -> Ids | None:
    if not isinstance(value, list | tuple | np.ndarray):
        return None
    if not len(value):
        return np.zeros(0, np.int64)
    try:
        found = np.asarray(value)
    except (ValueError, OverflowError):  # lists of several lengths, or beyond all integers
        return None
    kinds = "iub" if bools else "iu"
    if found.ndim != 1 or found.dtype.kind not in kinds or found.dtype == np.uint64:
        return None
    # A list of numbers and truths would be numbers.
    if not bools and isinstance(value, list | tuple) and any(isinstance(v, bool) for v in value):
        return None
    return found.astype(np.int64, copy=False)


def _counted(tokens_T: Ids, values_T: Ids) -> Mask | str:
    """Which tokens counted, by labels or by a mask, or why that cannot be told."""
    is_label = (values_T == IGNORED) | (values_T == tokens_T)
    is_mask = (values_T == 0) | (values_T == 1)
    by_label: Mask = values_T != IGNORED
    by_mask: Mask = values_T == 1
    if is_label.all() and is_mask.all() and not np.array_equal(by_label, by_mask):
        return "may be labels or a mask of 0 and 1, which say different things here"
    if is_mask.all() and not is_label.all():
        return by_mask
    if is_label.all():
        return by_label
    place = int(np.argmin(is_label))
    return (
        f"has {values_T[place]} at place {place}, where the token id is {tokens_T[place]}: a label "
        f"is the token of its own place (not of the next one) or {IGNORED}, and a mask has 0 and 1"
    )


def _within(padding_T: Ids) -> tuple[int, int] | str:
    """What is not padding, which is at the ends alone."""
    if not ((padding_T == 0) | (padding_T == 1)).all():
        return "has other values than 0 and 1"
    real = np.flatnonzero(padding_T)
    if not len(real):
        return 0, 0
    start, end = int(real[0]), int(real[-1]) + 1
    if end - start != len(real):
        return "has padding between tokens, and padding is at the ends of a row"
    return start, end
