"""What says which rows of a corpus are wanted: a condition on metadata, or the ids of documents."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rayinfluence.corpus.predicate import Decision, Predicate
from rayinfluence.errors import ConfigError
from rayinfluence.storage.digest import digest
from rayinfluence.storage.store import Store

#: Raised whenever the same condition would choose other rows.
_VERSION = 1
#: By key and wanted kind, how many values are of another kind, and one of them.
Others = Mapping[tuple[str, str], tuple[int, str]]


@dataclass(frozen=True)
class Condition:
    """Which rows a key of the configuration is true of.

    Attributes:
        place: the key.
        text: the condition, or where the ids are.
        predicate: on metadata.
        ids: of documents, where it is these and no predicate.
    """

    place: str
    text: str
    predicate: Predicate | None = None
    ids: frozenset[str] | None = None

    @classmethod
    def on_metadata(cls, place: str, text: str) -> Condition:
        """Of an expression.

        Raises:
            ConfigError: it is none.
        """
        return cls(place, text, Predicate(text, place))

    @classmethod
    def of_file(cls, place: str, file: Store) -> Condition:
        """Of a file with the id of a document a line; empty lines are none.

        Raises:
            ConfigError: it is not there, is not text, or names nothing.
        """
        if not file.exists(""):
            raise ConfigError(f"{place}.ids: there is no file {file.url}.")
        body = file.read("")
        try:
            text = body.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ConfigError(f"{place}.ids: {file.url} is not text in UTF-8.") from error
        if "\0" in text:
            raise ConfigError(f"{place}.ids: {file.url} is not text in UTF-8, by its zero bytes.")
        # An id may have spaces of its own; what ends a line on Windows is no part of it.
        ids = frozenset(
            line for one in text.split("\n") if (line := one.removesuffix("\r")).strip()
        )
        if not ids:
            raise ConfigError(f"{place}.ids: {file.url} names no document; write an id a line.")
        return cls(place, f"ids of {file.url}", ids=ids)

    @property
    def digest(self) -> str:
        """Of what decides the rows."""
        return digest([_VERSION, self.text if self.ids is None else sorted(self.ids)])

    def of(self, rows: pa.Table) -> Decision:
        """Of which rows of a shard it is true."""
        if self.predicate is not None:
            return self.predicate.of([json.loads(one) for one in rows["metadata"].to_pylist()])
        assert self.ids is not None
        holds_N = np.array([one in self.ids for one in rows["document_id"].to_pylist()], np.bool_)
        return Decision(holds_N, np.zeros(len(rows), np.bool_), {})


@dataclass(frozen=True)
class Chosen:
    """Rows that were chosen, and how many were not, and why.

    Attributes:
        rows_K: their places, ascending.
        left_out: how many, by the key that left them out.
        unknown: of how many a condition was neither true nor false, by its key: those of ``select``
            are left out, those of ``exclude`` are not.
        others: see :data:`Others`.
        found: documents that lists of ids named, by the key of the list.
    """

    rows_K: NDArray[np.int64]
    left_out: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)
    others: Others = field(default_factory=dict)
    found: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: pa.Table, select: Condition | None, exclude: Condition | None) -> Chosen:
        """Of the rows of a split, those that are selected and not excluded."""
        kept_N = np.ones(len(rows), np.bool_)
        left_out, unknown = Counter[str](), Counter[str]()
        others: dict[tuple[str, str], tuple[int, str]] = {}
        found: dict[str, frozenset[str]] = {}
        for condition, keeps in ((select, True), (exclude, False)):
            if condition is None:
                continue
            said = condition.of(rows)
            out_N = kept_N & (said.holds_N != keeps)
            left_out[condition.place] = int(out_N.sum())
            unknown[condition.place] = int((kept_N & said.unknown_N).sum())
            kept_N = kept_N & ~out_N
            others |= said.others
            if condition.ids is not None:
                named = rows["document_id"].filter(pa.array(said.holds_N)).unique().to_pylist()
                found[condition.place] = frozenset(named)
        return cls(np.flatnonzero(kept_N), left_out, unknown, others, found)

    def to_header(self) -> dict[str, Any]:
        """All but the rows, as plain values."""
        return {
            "left_out": dict(self.left_out),
            "unknown": dict(self.unknown),
            "others": [[*of, *told] for of, told in self.others.items()],
            "found": {place: sorted(ids) for place, ids in self.found.items()},
        }

    @classmethod
    def from_header(cls, rows_K: NDArray[np.int64], header: Mapping[str, Any]) -> Chosen:
        """What :meth:`to_header` gave."""
        return cls(
            rows_K,
            Counter(header["left_out"]),
            Counter(header["unknown"]),
            {(key, kind): (n, shown) for key, kind, n, shown in header["others"]},
            {place: frozenset(ids) for place, ids in header["found"].items()},
        )


def told(splits: Sequence[Chosen]) -> Chosen:
    """What was left out of all splits, and why; without rows."""
    others: dict[tuple[str, str], tuple[int, str]] = {}
    found: dict[str, frozenset[str]] = {}
    for one in splits:
        for of, (n, shown) in one.others.items():
            before = others.get(of, (0, shown))
            others[of] = before[0] + n, before[1]
        for place, ids in one.found.items():
            found[place] = found.get(place, frozenset()) | ids
    return Chosen(
        np.zeros(0, np.int64),
        sum((one.left_out for one in splits), Counter()),
        sum((one.unknown for one in splits), Counter()),
        others,
        found,
    )
