"""All queries of a method at a glance, and what they have in common."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rayinfluence.report.asked import said
from rayinfluence.report.text import BY_ITSELF
from rayinfluence.storage.results import Results, is_itself
from rayinfluence.storage.results.likelihood import per_token_probability

#: First proponents of a query that are looked at for documents.
FIRST = 10
#: Documents and groups that are kept, the first of them.
MOST = 20


@dataclass(frozen=True)
class AskedQuery:
    """A query in the overview.

    Attributes:
        query_id, prompt, completion: what was asked, as far as it is texts.
        log_probability: the model's own of the completion, in nats; None where it has none.
        probability_per_token: the geometric mean over its tokens that count.
        score, delta_nats, beyond_linear: of the first proponent; None where there is none.
        source, document_file, document_id: where that is from.
        top_1_share: the first proponent's share of all positive scores of the scan.
        top_1_percent_share: that of the largest hundredth.
        warning: why to read it with care; None for none.
        score_se, delta_nats_se: of means over seeds, standard errors; None elsewhere.
    """

    query_id: str
    prompt: str
    completion: str
    log_probability: float | None
    probability_per_token: float | None
    score: float | None
    delta_nats: float | None
    beyond_linear: bool | None
    source: str | None
    document_file: str | None
    document_id: str | None
    top_1_share: float | None
    top_1_percent_share: float | None
    warning: str | None
    score_se: float | None = None
    delta_nats_se: float | None = None


@dataclass(frozen=True)
class LeadingDocument:
    """A document among the first proponents of several queries.

    Attributes:
        source, document_file, document_id: which it is.
        n_queries: how many queries have a sequence of it among their first `FIRST` proponents.
        n_first: how many have one in the first place.
        best_rank: of its sequences, for any of the queries.
        best_query_id: the first query that has it at that rank.
    """

    source: str
    document_file: str | None
    document_id: str
    n_queries: int
    n_first: int
    best_rank: int
    best_query_id: str


@dataclass(frozen=True)
class LeadingGroup:
    """A group over all queries.

    Attributes:
        column, value, value_type: the metadata key and its value, as in the table of groups.
        n_sequences: of the group, among all that were scanned.
        share_of_corpus: their share, on average over the queries.
        share_of_top: the group's share of all queries' first proponents.
        lift: the one over the other.
        n_leading: how many queries have no group with a larger lift.
    """

    column: str
    value: str
    value_type: str
    n_sequences: int
    share_of_corpus: float
    share_of_top: float
    lift: float
    n_leading: int


@dataclass(frozen=True)
class Overview:
    """All queries of a method.

    Attributes:
        method: whose scores they are.
        queries: in their order.
        documents: the ones that most queries have among their first proponents; `MOST` of them.
        n_documents, n_shared: that any query has there, and that several have.
        groups: by key, the largest lift first; `MOST` of each.
        n_warned: queries with a warning.
    """

    method: str
    queries: Sequence[AskedQuery]
    documents: Sequence[LeadingDocument]
    n_documents: int
    n_shared: int
    groups: Mapping[str, Sequence[LeadingGroup]]

    @classmethod
    def of(cls, results: Results) -> Overview:
        """The overview of what one method found."""
        leading: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in results.leading(FIRST):
            leading[row["query_id"]].append(row)
        statistics = {row["query_id"]: row for row in results.statistics.to_pylist()}
        queries = [
            _asked(query, leading[query_id][:1], statistics.get(query_id) or {})
            for query_id, query in results.queries.items()
        ]
        documents = _documents(leading)
        n_shared = sum(one.n_queries > 1 for one in documents)
        groups = _groups(results)
        return cls(results.method, queries, documents[:MOST], len(documents), n_shared, groups)

    @property
    def n_warned(self) -> int:
        """Queries with a warning."""
        return sum(query.warning is not None for query in self.queries)

    def to_json(self) -> dict[str, Any]:
        """As plain values; the reference has the keys."""
        return asdict(self)


def _asked(
    query: Mapping[str, Any], first: Sequence[Mapping[str, Any]], all_scores: Mapping[str, Any]
) -> AskedQuery:
    prompt, completion, _ = (BY_ITSELF, "", "") if is_itself(query) else said(query)
    best = first[0] if first else {}
    total = all_scores.get("positive_sum")
    return AskedQuery(
        query_id=query["query_id"],
        prompt=prompt,
        completion=completion,
        log_probability=query.get("log_probability"),
        probability_per_token=per_token_probability(query),
        score=best.get("score"),
        delta_nats=best.get("delta_nats"),
        beyond_linear=best.get("beyond_linear"),
        source=best.get("source"),
        document_file=best.get("document_file"),
        document_id=best.get("document_id"),
        # Both as the scan had them.
        top_1_share=best["scan_score"] / total if best and total else None,
        top_1_percent_share=all_scores.get("top_1_percent_share"),
        warning=query.get("warning") or None,
        score_se=best.get("score_se"),
        delta_nats_se=best.get("delta_nats_se"),
    )


def _documents(leading: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[LeadingDocument]:
    """The documents of the first proponents, what most queries have first."""
    n_queries: Counter[tuple[str | None, str]] = Counter()
    n_first: Counter[tuple[str | None, str]] = Counter()
    sources: dict[tuple[str | None, str], str] = {}
    best: dict[tuple[str | None, str], tuple[int, str]] = {}
    for query_id, rows in leading.items():
        keys = [(row["document_file"], row["document_id"]) for row in rows]
        for key, row in zip(keys, rows, strict=True):
            sources[key] = row["source"]
            if key not in best or row["rank"] < best[key][0]:
                best[key] = row["rank"], query_id
        n_queries.update(set(keys))
        n_first.update(keys[:1])
    order = sorted(n_queries, key=lambda k: (-n_queries[k], -n_first[k], k[0] or "", k[1]))
    return [LeadingDocument(sources[k], *k, n_queries[k], n_first[k], *best[k]) for k in order]


def _groups(results: Results) -> dict[str, list[LeadingGroup]]:
    """Groups over all queries, by key: what their tops have more of than the corpus has."""
    if results.meaning.of_groups:  # there is no top
        return {}
    table = results.groups.select(
        [
            "query_id",
            "column",
            "value",
            "value_type",
            "n_sequences",
            "share_of_corpus",
            "top",
            "in_top",
        ]
    )
    tops: Counter[str] = Counter()
    n_queries: Counter[str] = Counter()
    leading: Counter[tuple[str, str, str]] = Counter()
    inside: Counter[tuple[str, str, str]] = Counter()
    shares: dict[tuple[str, str, str], float] = defaultdict(float)
    sizes: dict[tuple[str, str, str], int] = {}
    before = None
    for row in table.to_pylist():
        key = (row["column"], row["value"], row["value_type"])
        # Within a query and key the largest lift comes first.
        if (row["query_id"], row["column"]) != before:
            before = row["query_id"], row["column"]
            tops[row["column"]] += row["top"] or 0
            n_queries[row["column"]] += 1
            leading[key] += 1
        inside[key] += row["in_top"] or 0
        shares[key] += row["share_of_corpus"] or 0.0
        sizes[key] = max(sizes.get(key, 0), row["n_sequences"])
    found: dict[str, list[LeadingGroup]] = {}
    for key, size in sizes.items():
        column = key[0]
        corpus = shares[key] / n_queries[column]
        top = inside[key] / tops[column] if tops[column] else 0.0
        lift = top / corpus if corpus else 0.0
        found.setdefault(column, []).append(
            LeadingGroup(*key, size, corpus, top, lift, leading[key])
        )
    return {
        column: sorted(groups, key=lambda one: (-one.lift, -one.n_leading, one.value))[:MOST]
        for column, groups in found.items()
        if [one.value_type for one in groups] != ["missing"]  # the default key, without any
    }
