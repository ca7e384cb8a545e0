"""The table of a farm: what models say that were trained on subsets of the corpus.

One Parquet file, a row per training. It is all that referees need: a table that is kept beside a
corpus and its queries makes training unnecessary.

S training, N sequence of the corpus, Q query.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rayinfluence.errors import DamagedError, InputError, StorageError, brief
from rayinfluence.evaluation.subsets import Subset
from rayinfluence.storage.digest import canonical_json, refuse_broken_seal, sealed
from rayinfluence.storage.store import Store
from rayinfluence.storage.tables import read_row_groups, writing_table

#: Raised whenever the table has other columns, or they mean something else.
SCHEMA_VERSION = 1
#: Where the file's metadata has what the table is about.
_ABOUT = b"rayinfluence.evaluation"
_COLUMNS = pa.schema(
    [
        pa.field("design", pa.string()),  # full, half, drop, add, without or groups
        pa.field("share", pa.float64()),  # of the sequences, that is dropped; null without one
        pa.field("index", pa.int64()),  # which of its design, share and seed
        pa.field("seed", pa.int64()),  # of the training
        pa.field("dropped", pa.list_(pa.int64())),  # ids of sequences of weight 0
        pa.field("added", pa.list_(pa.int64())),  # ids of sequences that are seen once more
        pa.field("values", pa.list_(pa.float64())),  # f of each query, in the order of the queries
        pa.field("loss", pa.float64()),  # the mean per token that the recipe tells; null for none
    ]
)


@dataclass(frozen=True)
class About:
    """What a bank is made of.

    Attributes:
        recipe: digest of what decides the weights, the corpus and versions among it.
        parts: that is the digest of this.
        query_ids, query_digests: of the queries [Q].
        sequence_ids, content_digests: of the sequences [N], by ascending ids; a digest is of a
            sequence's token ids.
    """

    recipe: str
    parts: Mapping[str, Any]
    query_ids: tuple[str, ...]
    query_digests: tuple[str, ...]
    sequence_ids: tuple[int, ...]
    content_digests: tuple[str, ...]


@dataclass(frozen=True)
class Bank:
    """What models say that were trained on subsets.

    Attributes:
        about: recipe, queries and sequences.
        subsets: what each was trained on [S].
        values_SQ: f of each query by each model, float64; of log-probabilities, in nats.
        losses_S: the mean loss per token that the recipe tells; NaN where it tells none.
    """

    about: About
    subsets: tuple[Subset, ...]
    values_SQ: NDArray[np.float64]
    losses_S: NDArray[np.float64]

    @cached_property
    def weights_SN(self) -> NDArray[np.float32]:
        """How often each model has seen each sequence in a pass: 0, 1 or more."""
        ids_N = np.array(self.about.sequence_ids, dtype=np.int64)
        rows = [subset.weights(ids_N) for subset in self.subsets]
        return np.stack(rows) if rows else np.zeros((0, len(ids_N)), dtype=np.float32)

    @cached_property
    def seeds_S(self) -> NDArray[np.int64]:
        """Seeds of the trainings."""
        return np.array([subset.seed for subset in self.subsets], dtype=np.int64)

    @cached_property
    def designs(self) -> tuple[str, ...]:
        """What is special about each subset, by name."""
        return tuple(subset.design for subset in self.subsets)

    def of_design(self, design: str, share: float | None = None) -> Bank:
        """The trainings of a design alone, and of a share of the sequences where one is given."""
        rows = [
            row
            for row, subset in enumerate(self.subsets)
            if subset.design == design and share in (None, subset.share)
        ]
        subsets = tuple(self.subsets[row] for row in rows)
        return Bank(self.about, subsets, self.values_SQ[rows], self.losses_S[rows])

    def of_run(
        self,
        query_digests: Sequence[str],
        sequence_ids: Sequence[int],
        content_digests: Sequence[str],
    ) -> Bank:
        """The bank with the queries of a run alone, in their order, and with the run's ids.

        A corpus of the same sequences in the same order, in other files, has other ids.

        Args:
            query_digests: of the run.
            sequence_ids: of the sequences that a model of the run is trained on, ascending.
            content_digests: of the same.

        Raises:
            InputError: it lacks some of the queries, or is of other sequences.
        """
        if tuple(content_digests) != self.about.content_digests:
            same = len(set(content_digests) & set(self.about.content_digests))
            raise InputError(
                f"evaluation.bank: the table is of {len(self.about.content_digests):,} sequences, "
                f"and the run's corpus has {len(content_digests):,}, {same:,} of them among those: "
                "all have to be, in the same order. Name the table of this corpus, or leave the "
                "key out to have models trained here."
            )
        columns = {query: column for column, query in enumerate(self.about.query_digests)}
        if lacking := [query for query in query_digests if query not in columns]:
            raise InputError(
                f"evaluation.bank: {len(lacking):,} of the run's {len(query_digests):,} queries "
                "are not in the table (or are asked otherwise there), which has "
                f"{', '.join(self.about.query_ids[:3])} and others. Ask those, or leave the key "
                "out to have models trained here."
            )
        chosen = [columns[query] for query in query_digests]
        about = replace(
            self.about,
            query_ids=tuple(self.about.query_ids[column] for column in chosen),
            query_digests=tuple(query_digests),
            sequence_ids=tuple(sequence_ids),
        )
        ids = dict(zip(self.about.sequence_ids, sequence_ids, strict=True))
        subsets = tuple(subset.renamed(ids) for subset in self.subsets)
        return replace(self, about=about, subsets=subsets, values_SQ=self.values_SQ[:, chosen])

    def write(self, store: Store, key: str) -> None:
        """Write it as a table; equal banks give equal bytes."""
        columns = {
            "design": list(self.designs),
            "share": [subset.share for subset in self.subsets],
            "index": [subset.index for subset in self.subsets],
            "seed": self.seeds_S.tolist(),
            "dropped": [list(subset.dropped) for subset in self.subsets],
            "added": [list(subset.added) for subset in self.subsets],
            "values": self.values_SQ.tolist(),
            "loss": [None if np.isnan(loss) else loss for loss in self.losses_S.tolist()],
        }
        schema = _COLUMNS.with_metadata({_ABOUT: canonical_json(self._told()).encode()})
        with writing_table(store, key, schema) as writer:
            writer.write(pa.table(columns, schema=schema))

    def _told(self) -> dict[str, Any]:
        about = self.about
        return sealed(
            {
                "schema": SCHEMA_VERSION,
                "recipe": about.recipe,
                "parts": about.parts,
                "queries": [*map(list, zip(about.query_ids, about.query_digests, strict=True))],
                "sequences": [
                    *map(list, zip(about.sequence_ids, about.content_digests, strict=True))
                ],
            }
        )

    @classmethod
    def given(cls, store: Store) -> Bank:
        """Read a table that somebody names, whose file the store is.

        Raises:
            InputError: it cannot be read. It is the user's: nobody is told to delete it.

        And what :meth:`read` raises.
        """
        if not store.exists(""):
            raise InputError(
                f"evaluation.bank: there is no file {store.url}. Name a table that the evaluation "
                "of a run has written, or leave the key out to have models trained here."
            )
        try:
            return cls.read(store, "")
        except StorageError as error:
            ours = pa.ArrowException, IsADirectoryError
            if isinstance(error, DamagedError) or not isinstance(error.__cause__, ours):
                raise
            raise InputError(
                f"evaluation.bank: {store.url} is no table of trained models, or a damaged one "
                f"({brief(error.__cause__ or error)}). Name one that the evaluation of a run has "
                "written, or leave the key out to have models trained here."
            ) from error

    @classmethod
    def read(cls, store: Store, key: str) -> Bank:
        """Read a table.

        Raises:
            InputError: it is none of ours, or of another release's schema.
            DamagedError: it is not what was written.
            StorageError: it is missing, or cannot be read.
        """
        table = read_row_groups(store, key)
        place = f"{store.url}/{key}".rstrip("/")
        about = _about((table.schema.metadata or {}).get(_ABOUT), place)
        missing = [name for name in _COLUMNS.names if name not in table.column_names]
        if missing:
            raise DamagedError(f"{place} is damaged: it has no column {missing[0]!r}.")
        rows = table.select(_COLUMNS.names).to_pylist()
        subsets = tuple(
            Subset(
                row["design"],
                row["seed"],
                tuple(row["dropped"]),
                tuple(row["added"]),
                row["share"],
                row["index"],
            )
            for row in rows
        )
        values_SQ = np.array([row["values"] for row in rows], dtype=np.float64)
        losses = [np.nan if row["loss"] is None else row["loss"] for row in rows]
        return cls(
            about,
            subsets,
            values_SQ.reshape(len(rows), len(about.query_ids)),
            np.array(losses, dtype=np.float64),
        )


def _about(told: bytes | None, place: str) -> About:
    if told is None:
        raise InputError(
            f"evaluation.bank: {place} is Parquet, and no table of trained models: name one that "
            "the evaluation of a run has written."
        )
    try:
        body = json.loads(told)
        refuse_broken_seal(body)
        if body["schema"] != SCHEMA_VERSION:
            raise InputError(
                f"evaluation.bank: {place} is of schema version {body['schema']}, and this "
                f"release reads {SCHEMA_VERSION}: train again, or read it with the release that "
                "wrote it."
            )
        query_ids, query_digests = (
            zip(*body["queries"], strict=True) if body["queries"] else ((), ())
        )
        ids, digests = zip(*body["sequences"], strict=True)
        return About(body["recipe"], body["parts"], query_ids, query_digests, ids, digests)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{place} is damaged: what it is about cannot be read.") from error
