"""Results without some of their sequences: what is left of what was kept, and what it adds up to.

This is not removal. The scores are those of a model that was trained on all of the sequences; what
it would say without some of them, only training again would tell. And of all sequences only the
survivors are known one by one: the first m that are left of them are the first m of the rest, but
what comes after them is not known.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rayinfluence.errors import ConfigError
from rayinfluence.report.text import count, one_line, percent, shorten, signed
from rayinfluence.storage.results import (
    Direction,
    Results,
)

_SIDES: tuple[Direction, Direction] = ("proponent", "opponent")
#: Keys that a message names, and characters of a value in one.
_NAMED, _SHOWN = 12, 60

Metadata = Mapping[str, Any]


class Said(Protocol):
    """What a condition says of some rows: where it is true, and where neither true nor false."""

    @property
    def holds_N(self) -> NDArray[np.bool_]: ...  # noqa: D102

    @property
    def unknown_N(self) -> NDArray[np.bool_]: ...  # noqa: D102

    @property
    def others(self) -> Mapping[tuple[str, str], tuple[int, str]]:
        """By key and the kind of value that was wanted, how many are of another, and one."""


class Condition(Protocol):
    """A condition on metadata, as ``corpus.exclude`` has them."""

    @property
    def keys(self) -> list[str]:
        """The metadata keys that it asks for."""

    def of(self, metadata: Sequence[Metadata]) -> Said:
        """What it says of rows with these metadata."""


def without(
    results: Results, condition: Condition, text: str, excluded: NDArray[np.int64] | None = None
) -> Results:
    """Results without the sequences that a condition is true of.

    Ranks are among those that are left. Groups, histograms and figures of all scores, and what
    rescoring changed, are those of all sequences, and are left out. ``manifest["without"]`` says
    what was done: ``condition``, ``sentence``, ``near_copies`` (hits that are left and are near
    copies of one that is not), ``of_other_kinds`` (values that are compared with another kind), and
    of each query (``queries``) how many hits are left of how many, ``unknown`` (hits of which the
    condition is neither true nor false, which stay), ``sums`` over the rest, where they are known
    by groups or by all scores, and a ``sentence``.

    Args:
        results: of one method.
        condition: on metadata.
        text: the condition as it was written.
        excluded: the ids of all sequences of the corpus that it is true of, where the results have
            all scores; None where one of the two is not there.

    Raises:
        ConfigError: no hit has a key that the condition asks for.
    """
    metadata = results.metadata()
    ids, rows = list(metadata), list(metadata.values())
    _refuse_unknown_keys(condition, rows, text)
    said = condition.of(rows)
    out = np.array(ids, np.int64)[said.holds_N]
    unknown = np.array(ids, np.int64)[said.unknown_N]
    before = results.survivors
    kept = _ranked(before.filter(pc.invert(pc.is_in(before["sequence_id"], pa.array(out)))))
    queries = _left(results, before, kept, unknown)
    sums = _sums(results, condition)
    for query_id, one in queries.items():
        one["sums"] = sums.get(query_id)
        if one["sums"] is None and excluded is not None:
            one["sums"] = _of_all_scores(results.scores(query_id), excluded)
        one["sentence"] = _of_query(text, one, condition.keys)
    copies = int(pc.sum(pc.is_in(kept["near_duplicate_of"], pa.array(out))).as_py() or 0)
    others = [
        {"key": key, "wanted": kind, "hits": n, "such_as": shown}
        for (key, kind), (n, shown) in said.others.items()
    ]
    told = {"condition": text, "queries": queries, "near_copies": copies, "of_other_kinds": others}
    told["sentence"] = _of_all(told)
    return results.of_survivors(kept, without=told)


def _refuse_unknown_keys(condition: Condition, rows: Sequence[Metadata], text: str) -> None:
    """See that some hit has each key: a misspelt one would exclude nothing, in silence."""
    for key in condition.keys:
        if not any(_has(row, key) for row in rows):
            there = sorted({name for row in rows for name in row})
            named = ", ".join(there[:_NAMED]) + (" ..." if len(there) > _NAMED else "")
            raise ConfigError(
                f"--exclude {text}: no hit has {key!r} in its metadata; they have "
                f"{named or 'none'}."
            )


def _has(row: Metadata, key: str) -> bool:
    found: Any = row
    for part in [key] if key in row else key.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return False
        found = found[part]
    return True


def _ranked(table: pa.Table) -> pa.Table:
    """Survivors in their order, with ranks from 1 in each direction of each query.

    Those of the scan, too, so that both are ranks of the same sequences.
    """
    keys = list(zip(table["query_id"].to_pylist(), table["direction"].to_pylist(), strict=True))
    for name in ("rank", "scan_rank"):
        before = np.array(table[name].to_pylist(), np.int64)
        seen: Counter[tuple[str, str]] = Counter()
        ranks = np.zeros(len(keys), np.int64)
        for row in np.argsort(before, kind="stable").tolist():
            seen[keys[row]] += 1
            ranks[row] = seen[keys[row]]
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(place), pa.array(ranks, pa.int32()))
    return table


def _left(
    results: Results, before: pa.Table, kept: pa.Table, unknown: NDArray[np.int64]
) -> dict[str, dict[str, Any]]:
    """By query, how many hits of each direction are left of how many."""
    whole, rest = (
        Counter(zip(one["query_id"].to_pylist(), one["direction"].to_pylist(), strict=True))
        for one in (before, kept)
    )
    unsure = kept.filter(pc.is_in(kept["sequence_id"], pa.array(unknown)))
    of_unknown = Counter(unsure["query_id"].to_pylist())
    return {
        query_id: {
            **{f"{s}s": {"left": rest[query_id, s], "of": whole[query_id, s]} for s in _SIDES},
            "unknown": of_unknown[query_id],
        }
        for query_id in results.queries
    }


def _sums(results: Results, condition: Condition) -> dict[str, dict[str, float]]:
    """By query, what all scores of the rest add up to, where sums per group tell.

    They do where the condition is about one key that groups, and each of its values has a group:
    then it is true of all sequences of a group or of none.
    """
    keys = condition.keys
    if len(keys) != 1:
        return {}
    table = results.groups
    table = table.filter(pc.equal(table["column"], keys[0]))
    if pc.any(pc.equal(table["value_type"], "other")).as_py() or not len(table):
        return {}
    rows = table.to_pylist()
    holds = condition.of([_metadata_of(row) for row in rows]).holds_N
    found: dict[str, dict[str, float]] = {}
    for row, excluded in zip(rows, holds, strict=True):
        sums = found.setdefault(row["query_id"], dict.fromkeys(_SUMS, 0))
        for name in ("n_sequences", "positive_sum", "negative_sum"):
            sums[f"all_{name}"] += row[name]
            if not excluded:
                sums[name] += row[name]
    return found


def _of_all_scores(scores: pa.Table, excluded: NDArray[np.int64]) -> dict[str, float]:
    """The same by all scores of a query, as the scan had them."""
    all_N = scores["score"].to_numpy().astype(np.float64)
    rest_N = all_N[~np.isin(scores["sequence_id"].to_numpy(), excluded)]
    found: list[float] = []
    for some_N in (rest_N, all_N):
        found += [len(some_N), float(some_N[some_N > 0].sum()), float(some_N[some_N < 0].sum())]
    return dict(zip(_SUMS, found, strict=True))


_SUMS = (
    *("n_sequences", "positive_sum", "negative_sum"),
    *("all_n_sequences", "all_positive_sum", "all_negative_sum"),
)


def _metadata_of(group: Metadata) -> Metadata:
    """Metadata of which a group is made, of its key alone."""
    kind, value = group["value_type"], group["value"]
    if kind == "missing":
        return {}
    return {group["column"]: value if kind == "string" else json.loads(value)}


def _of_query(text: str, one: Metadata, keys: Sequence[str]) -> str:
    """What is left of a query's hits, and what the rest adds up to."""
    hits = " and ".join(
        f"{count(one[f'{side}s']['left'])} of {count(one[f'{side}s']['of'])} {side}s"
        for side in _SIDES
    )
    said = f"Without {one_line(text)}: {hits} are left, the first ones of the rest in their order."
    if one["unknown"]:
        said += f" Of {count(one['unknown'])} hits it cannot be told, and they stay."
    sums = one["sums"]
    if sums is None:
        named = ", ".join(map(one_line, keys))
        return (
            f"{said} What all scores of the rest add up to is not known: for that, `scan.group_by` "
            f"has to have the one key that is asked for ({named}), with a group for each value, or "
            "the run all scores (`scan.scores: dense`) and its corpus as it was scanned."
        )
    share = sums["n_sequences"] / sums["all_n_sequences"] if sums["all_n_sequences"] else 0.0
    return (
        f"{said} All scores of the rest, {count(sums['n_sequences'])} sequences "
        f"({percent(share)}): {signed(sums['positive_sum'])} and {signed(sums['negative_sum'])}, "
        f"of {signed(sums['all_positive_sum'])} and {signed(sums['all_negative_sum'])} with them."
    )


def _of_all(told: Metadata) -> str:
    """What a reader has to know before anything else."""
    queries = list(told["queries"].values())
    least = " and ".join(
        f"{count(min(one[f'{side}s']['left'] for one in queries))} {side}s"
        for side in _SIDES
        if queries
    )
    text = (
        f"Without {one_line(told['condition'])}: hits of which that is true are not shown, and "
        "ranks are among the others that were kept. This is not removal: nothing was trained "
        "again, the scores are those of the model that saw all of it, and what it would say "
        f"without these sequences is not known. Of each query at least {least} are left; what "
        "would come after them was not kept. Groups and figures of all scores are in the report "
        "of all."
    )
    for one in told["of_other_kinds"]:
        text += (
            f" {one_line(one['key'])} is compared with a {one['wanted']}, and is something else in "
            f"{count(one['hits'])} hits, such as {shorten(one['such_as'], _SHOWN)}."
        )
    if n := told["near_copies"]:
        text += f" Near copies of hits that are not shown are {count(n)} of those that are."
    return text
