"""One method of several seeds: which sequences are shown, and its tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rayinfluence.dataflow.compute.statistics import Partials, statistics_table, tails_table
from rayinfluence.dataflow.seeds.all_scores import means_of_all
from rayinfluence.dataflow.seeds.hits import Hits, hits_of_all, hits_of_survivors
from rayinfluence.dataflow.seeds.rows import Asked, rows_of
from rayinfluence.dataflow.seeds.sequences import known_ids, sequences_of
from rayinfluence.dataflow.seeds.sources import Source, in_common
from rayinfluence.dataflow.seeds.telling import description
from rayinfluence.storage.results import (
    GROUP_SCHEMA,
    STATISTICS_SCHEMA,
    TAIL_SCHEMA,
    Meaning,
    Results,
    in_version,
    method_tables,
    of_method,
    seeds_schema,
    table_key,
)
from rayinfluence.storage.store import Store
from rayinfluence.storage.tables import writing_table

#: Of a method, what the manifest of a run says of that run alone.
_OF_A_RUN = ("rank", "rescoring", "banks")


@dataclass(frozen=True)
class Found:
    """What was found by a method.

    Attributes:
        hits: by query digest.
        partials: of all scores, by query id; none where they were not kept.
        banks: where their means are.
    """

    hits: Mapping[str, Hits]
    partials: Partials
    banks: Sequence[str]


@dataclass(frozen=True)
class MethodOfSeeds:
    """A method, with what is merged.

    Args:
        name: of the method.
        sources: in their order.
        asked: all questions that all were asked, by digest.
        dense: whether all keep all scores.
    """

    name: str
    sources: Sequence[Source]
    asked: Mapping[str, Asked]
    dense: bool

    @property
    def results(self) -> list[Results]:
        """Of each seed."""
        return [source.results[self.name] for source in self.sources]

    @cached_property
    def ids(self) -> dict[str, list[str]]:
        """Of the questions that the method asks, by digest, what each seed calls them."""
        by_digest = [
            {row["digest"]: name for name, row in reversed(one.queries.items())}
            for one in self.results
        ]
        return {
            query: [names[query] for names in by_digest]
            for query in self.asked
            if query in by_digest[0]
        }

    @cached_property
    def meaning(self) -> Meaning:
        """Of the means."""
        ranks = [source.manifest["methods"][self.name].get("rank") for source in self.sources]
        ours = self.results[0].meaning
        return replace(ours, description=description(ours, len(self.sources), self.dense, ranks))

    def find(self, into: Store) -> Found:
        """The hits of all queries; means of all scores are written into a run directory."""
        if self.dense:
            return self._of_all_scores(into)
        hits = {query: hits_of_survivors(self._rows(query)) for query in self.ids}
        return Found(hits, {}, ())

    def _of_all_scores(self, into: Store) -> Found:
        known = known_ids(self.results)
        splits = self.sources[0].manifest["dense_scores"]
        top = min(source.manifest["config"]["scan"]["top"] for source in self.sources)
        scored = [
            {row["query_id"]: row["n_sequences"] for row in one.statistics.to_pylist()}
            for one in self.results
        ]
        hits: dict[str, Hits] = {}
        partials, banks = {}, []
        for means in means_of_all(self.sources, self.name, list(self.ids), top, into):
            banks.append(means.bank.name)
            errors = means.errors(splits)
            for place, query in enumerate(means.query_digests):
                n = max(of[name] for of, name in zip(scored, self.ids[query], strict=True))
                hits[query] = hits_of_all(means.partial, place, errors[place], known, n)
                partials[self.asked[query].row["query_id"]] = means.partial, place
        return Found(hits, partials, banks)

    def write(self, found: Found, store: Store, fingerprint: str) -> dict[str, str]:
        """Write its tables; returns their digests by name."""
        pieces = (self._rows_of(query, hits) for query, hits in found.hits.items())
        # Sums over groups are of a run's scores, and not of their means.
        tables: list[tuple[pa.Schema, Iterable[pa.Table]]] = [
            (seeds_schema(self.meaning), pieces),
            (GROUP_SCHEMA, []),
            (STATISTICS_SCHEMA, [statistics_table(found.partials)] if found.partials else []),
            (TAIL_SCHEMA, tails_table(found.partials)),
        ]
        written = {}
        for name, (schema, parts) in zip(method_tables(self.name), tables, strict=True):
            schema = in_version(of_method(schema, self.meaning), fingerprint)
            with writing_table(store, table_key(fingerprint, name), schema) as writer:
                writer.extend(parts)
            written[name] = writer.digest
        return written

    def told(self, found: Found) -> dict[str, Any]:
        """What the manifest says of the method."""
        theirs = [source.manifest["methods"][self.name] for source in self.sources]
        common, dampings = in_common(theirs), [one.get("damping") or {} for one in theirs]
        return {
            **{key: value for key, value in common.items() if key not in _OF_A_RUN},
            "meaning": asdict(self.meaning),
            "damping": {
                module: float(np.mean([of[module] for of in dampings]))
                for module in dampings[0]
                if all(module in of for of in dampings)
            },
            "banks": list(found.banks),
            "scanned_sequences": min((one.n_scored for one in found.hits.values()), default=0),
        }

    def _rows(self, query: str) -> list[pa.Table]:
        """Of each seed, the query's rows of its table of survivors."""
        return [of.rows(name) for of, name in zip(self.results, self.ids[query], strict=True)]

    def _rows_of(self, query: str, hits: Hits) -> pa.Table:
        sequences = sequences_of(self.results, np.unique(hits.ids_H))
        n_training = int(self.sources[0].manifest["n_training_sequences"])
        rows = self._rows(query)
        return rows_of(self.asked[query], hits, rows, sequences, n_training, self.meaning)


def ids_of(found: Iterable[Found]) -> NDArray[np.int64]:
    """The sequences of all hits, ascending."""
    ids = [hits.ids_H for one in found for hits in one.hits.values()]
    return np.unique(np.concatenate([np.zeros(0, np.int64), *ids]))
