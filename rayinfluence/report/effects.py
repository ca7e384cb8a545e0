"""What leaving each group out did, beside sums of scores over it: tables that all views show."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import pyarrow.compute as pc

from rayinfluence.report.compare.grids import Grid
from rayinfluence.report.compare.page import grid_table
from rayinfluence.report.groups import group_name
from rayinfluence.report.markup import Html, join, tag
from rayinfluence.report.text import count, measured, percent, shorten, signed
from rayinfluence.storage.results import Results, group_scores

_NAME = 60


def told(results: Results) -> Mapping[str, Any]:
    """What the manifest says of the method."""
    found: Mapping[str, Any] = results.manifest["methods"][results.method]
    return found


def effect_rows(results: Results, query_id: str) -> list[dict[str, Any]]:
    """The groups of a query, the largest effect first."""
    table = results.groups
    rows: list[dict[str, Any]] = table.filter(pc.equal(table["query_id"], query_id)).to_pylist()
    return rows


def effects_grid(results: Results, query_id: str) -> Grid:
    """A query's effects with their errors, and sums of scores beside them."""
    beside = told(results)["beside"]
    rows = tuple(
        (
            shorten(group_name(row), _NAME),
            count(row["n_sequences"]),
            percent(row["share_of_corpus"]),
            measured(row["effect"], row["effect_se"]),
            *(_sum(group_scores(row).get(one["method"])) for one in beside),
        )
        for row in effect_rows(results, query_id)
    )
    heads = (
        told(results)["group_by"],
        "sequences",
        "of the corpus",
        "effect",
        *(f"sum of {one['method']}{', nats' * (one['unit'] == 'nats')}" for one in beside),
    )
    return Grid("What the groups did, each left out alone", heads, rows)


def overview_grid(results: Results) -> Grid:
    """The groups over all queries: mean effects, and for how many queries each is the first."""
    effects: dict[tuple[str, str], list[float]] = defaultdict(list)
    sizes: dict[tuple[str, str], Sequence[str]] = {}
    first: Counter[tuple[str, str]] = Counter()
    for query_id in results.queries:
        for place, row in enumerate(effect_rows(results, query_id)):
            key = row["value_type"], row["value"]
            effects[key].append(row["effect"])
            first[key] += place == 0 and row["effect"] > 0
            sizes[key] = (
                shorten(group_name(row), _NAME),
                count(row["n_sequences"]),
                percent(row["share_of_corpus"]),
            )
    order = sorted(effects, key=lambda key: -fmean(effects[key]))
    rows = tuple((*sizes[key], signed(fmean(effects[key])), count(first[key])) for key in order)
    heads = (told(results)["group_by"], "sequences", "of the corpus", "mean effect", "first in")
    n = count(len(results.queries))
    return Grid(f"Groups over all {n} queries, each left out alone", heads, rows)


def agreement_grid(results: Results) -> Grid:
    """How sums of the run's scores agree with effects."""
    rows = tuple(
        (one["method"], _interval(one["agreement"]))
        for one in told(results)["beside"]
        if one["agreement"] is not None
    )
    heads = ("sums of", "rank correlation with effects")
    return Grid("Rank correlation over groups, the mean over queries", heads, rows)


def effects_section(results: Results, query_id: str) -> Html:
    """The table of a query in a report; nothing where it was not asked."""
    grid = effects_grid(results, query_id)
    if not grid.rows:
        return Html()
    note = (
        "effect: by models trained on everything, less that by models trained without the group, "
        "the mean over seeds ± its standard error. Positive: with the group in training the "
        "completion is more likely. Sums are of the run's scores over the group; in nats they "
        "predict the effect to first order."
    )
    return tag("section", tag("p", note, class_="quiet"), grid_table(grid), class_="groups")


def effects_overview(results: Results) -> Html:
    """The tables over all queries in a report."""
    return join((grid_table(overview_grid(results)), grid_table(agreement_grid(results))))


def _interval(one: Mapping[str, Any]) -> str:
    if one["low"] is None:
        return f"{one['mean']:.3f}"
    return f"{one['mean']:.3f} ({one['low']:.3f} to {one['high']:.3f})"


def _sum(value: float | None) -> str:
    return "" if value is None else signed(value)
