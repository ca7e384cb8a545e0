"""Results that are made up for the browser: of all kinds of hits, and of many."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from made_up_results import group, make_results, query, row

from rayinfluence.report import render_report
from rayinfluence.storage.results import Results

SOURCES = ("books", "web", "wiki")
WORDS = ("the", "river", "of", "Tresk", "runs", "past", "Belmora", "and", "nobody", "knew")


def written(results: Mapping[str, Results], folder: Path, per_side: int | None = None) -> Path:
    """Write a report into a folder; where its first page is."""
    for name, page in render_report(dict(results), "report.html", "report", per_side=per_side):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(page, encoding="utf-8")
    return folder / "report.html"


def made_up_hits() -> dict[str, Results]:
    """Two questions by two methods, 12 hits a side."""
    queries = [
        query("capital", digest="aa" * 16, part_ends=[1, 2]),
        query("river", digest="bb" * 16, prompt="The river of Tresk is", completion=" Aln"),
    ]
    return {
        method: make_results(
            [hit for asked in queries for hit in _hits(asked["query_id"], 12, 20, method)],
            queries,
            [group(source, asked["query_id"]) for asked in queries for source in SOURCES],
            method,
        )
        for method in ("ekfac", "gradient_product")
    }


def many_hits(n_queries: int, per_side: int, n_tokens: int) -> dict[str, Results]:
    """As many questions and hits, of as many tokens."""
    queries = [query(f"question-{n}", part_ends=[1, 2]) for n in range(n_queries)]
    hits = [hit for q in queries for hit in _hits(q["query_id"], per_side, n_tokens, "ekfac")]
    groups = [group(source, q["query_id"]) for q in queries for source in SOURCES]
    return {"ekfac": make_results(hits, queries, groups)}


def _hits(query_id: str, per_side: int, n_tokens: int, method: str) -> list[dict[str, Any]]:
    random_of = random.Random(f"{query_id} {method}")
    hits = []
    for direction in ("proponent", "opponent"):
        for rank in range(1, per_side + 1):
            texts = [f" {random_of.choice(WORDS)}" for _ in range(n_tokens)]
            parts = [[random_of.gauss(0, 9) for _ in texts] for _ in range(2)]
            number = 10_000 * (direction == "opponent") + rank
            hits.append(
                row(
                    query_id,
                    rank,
                    direction,
                    sequence_id=number,
                    content_digest=f"{number:032x}",
                    document_id=f"{direction}-{rank}",
                    scan_rank=per_side + 1 - rank,
                    metadata={"source": SOURCES[rank % 3], "year": 1990 + rank % 4},
                    text="".join(texts),
                    tokens=list(range(n_tokens)),
                    n_tokens=n_tokens,
                    token_texts=texts,
                    token_scores=[sum(pair) for pair in zip(*parts, strict=True)],
                    pair_scores=parts if rank <= 5 and query_id != "river" else None,
                    suspect=rank == 2,
                    beyond_linear=rank == 3,
                    near_duplicate_of=number - 3 if rank in (4, 5) else None,
                )
            )
    return hits
