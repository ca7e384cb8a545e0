"""How much of all influence each source, licence or other group has, over ALL scanned sequences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow.compute as pc

from rayinfluence.report.groups import group_name
from rayinfluence.report.pictures.figure import Figure, categories, linear
from rayinfluence.report.pictures.seen import Seen
from rayinfluence.report.pictures.signed_bars import SignedBar, signed_bars
from rayinfluence.report.text import count, percent, shorten, signed

_BARS = 12
_SURE = 1.959963984540054
_HEADS = (
    *("group", "sequences", "share of corpus", "positive sum", "negative sum", "net"),
    *("mean score", "its standard error", "lift", "lift, from", "lift, to"),
)
Row = Mapping[str, Any]


def groups(seen: Seen) -> list[Figure]:
    """A figure for each metadata key that groups, those with one group left out."""
    if seen.results.meaning.of_groups:  # nothing is known of single scores
        return []
    table = seen.results.groups
    rows = table.filter(pc.equal(table["query_id"], seen.query_id)).to_pylist()
    keys = dict.fromkeys(row["column"] for row in rows)
    found = ([row for row in rows if row["column"] == key] for key in keys)
    return [
        _figure(seen, key, some) for key, some in zip(keys, found, strict=True) if len(some) > 1
    ]


def _figure(seen: Seen, key: str, rows: Sequence[Row]) -> Figure:
    ordered = sorted(rows, key=lambda row: -abs(_net(row)))
    shown, rest = ordered[:_BARS], ordered[_BARS:]
    shown.sort(key=lambda row: -_net(row))
    bars = [_bar(key, row) for row in shown]
    names = [shorten(group_name(row), 22) for row in shown]
    if rest:
        bars.append(_together(rest))
        names.append(f"{count(len(rest))} others")
    return Figure(
        "groups",
        _title(key, rows),
        linear(
            f"sum of scores, {seen.results.meaning.unit}",
            [end for bar in bars for end in (bar.above, bar.below)],
        ),
        categories(shorten(key, 40), names[::-1]),
        signed_bars(bars, "net"),
        (
            "Sums over all scanned sequences of a group: of positive scores to the right, of "
            "negative ones to the left; the dot is both together. They grow with the size of a "
            "group; the mean per sequence and the lift, which is its share of the first hits over "
            "its share of the corpus, do not.",
        ),
        _HEADS,
        tuple(_row(row) for row in ordered),
    )


def _net(row: Row) -> float:
    return float(row["positive_sum"] + row["negative_sum"])


def _bar(key: str, row: Row) -> SignedBar:
    mean, error, lift = (row.get(name) for name in ("mean_score", "mean_score_error", "lift"))
    parts = [
        f"{group_name(row)}: {signed(row['positive_sum'])} and {signed(row['negative_sum'])}, "
        f"net {signed(_net(row))}",
        f"{count(row['n_sequences'])} sequences, {_share(row)} of the corpus",
    ]
    if mean is not None:
        margin = "" if error is None else f" ± {signed(error).removeprefix('+')}"
        parts.append(f"mean {signed(mean)}{margin}")
    if lift is not None:
        parts.append(f"lift {lift:.2f}")
    several = row.get("value_type") in ("missing", "other")
    value = None if several else (key, str(row["value"]))
    return SignedBar(row["positive_sum"], row["negative_sum"], "; ".join(parts), value)


def _together(rows: Sequence[Row]) -> SignedBar:
    above, below = (sum(row[name] for row in rows) for name in ("positive_sum", "negative_sum"))
    n = sum(row["n_sequences"] for row in rows)
    return SignedBar(
        above,
        below,
        f"{count(len(rows))} other groups: {signed(above)} and {signed(below)}, net "
        f"{signed(above + below)}; {count(n)} sequences",
    )


def _title(key: str, rows: Sequence[Row]) -> str:
    by = f"By {shorten(key, 40)}"
    sure = [row for row in rows if abs(_net(row)) > _SURE * _error(row)]
    if not sure:
        return f"{by}: no group's mean score is surely different from zero"
    most = max(sure, key=lambda row: abs(_net(row)))
    lift = most.get("lift")
    where = "" if lift is None else f", and is {lift:.2f} times as often among the first hits"
    return (
        f"{by}: “{shorten(group_name(most), 40)}” has most, net {signed(_net(most))} with "
        f"{_share(most)} of the corpus{where}"
    )


def _error(row: Row) -> float:
    """Of the net, by that of the mean; of a single sequence nothing is known."""
    error = row.get("mean_score_error")
    return math.inf if error is None else float(row["n_sequences"] * error)


def _share(row: Row) -> str:
    share = row.get("share_of_corpus")
    return "unknown" if share is None else percent(share)


def _row(row: Row) -> tuple[str | int | float | None, ...]:
    return (
        group_name(row),
        *(row.get(k) for k in ("n_sequences", "share_of_corpus", "positive_sum", "negative_sum")),
        _net(row),
        *(row.get(k) for k in ("mean_score", "mean_score_error", "lift", "lift_low", "lift_high")),
    )
