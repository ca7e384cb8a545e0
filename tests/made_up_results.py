"""Results made up for the tests of reports, and pages taken apart."""

import io
import re
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from typing import Any

import pyarrow as pa
from rich.console import Console

from rayinfluence.report import render, render_page
from rayinfluence.storage.metadata import columns, kinds_of
from rayinfluence.storage.results import (
    GROUP_SCHEMA,
    STATISTICS_SCHEMA,
    TAIL_SCHEMA,
    Meaning,
    Results,
    query_schema,
    sequence_schema,
    survivor_schema,
)
from rayinfluence.storage.tables import Rows

HOSTILE = (
    "</script></style><img src=x onerror=alert(1)>\"' onload=alert(2)&lt;b&gt;\x1b[31m\x00[bold]"
)

OUR_TAGS = (
    "html head meta title style script body header h1 h2 h3 p b i dl dt dd bdi div span details "
    "summary ul ol li nav a input button main section small label svg rect ruby rt q table caption "
    "thead tbody tr th td footer figure figcaption g line text polyline polygon circle"
)
OUR_ATTRIBUTES = (
    "charset http-equiv content name lang type class id open title href placeholder aria-label "
    "hidden value checked for dir role x width height scope tabindex data-scan data-flags "
    "data-value data-part data-pairs data-step data-sums data-start data-sizes "
    "data-group aria-hidden viewbox x1 x2 y1 y2 y points cx cy r text-anchor stroke-dasharray"
)


def row(query_id: str = "q", rank: int = 1, direction: str = "proponent", **changes: Any) -> dict:
    return {
        "query_id": query_id,
        "rank": rank,
        "direction": direction,
        "score": 120.0 / rank if direction == "proponent" else -120.0 / rank,
        "delta_nats": 0.12 / rank if direction == "proponent" else -0.12 / rank,
        "scan_rank": rank,
        "scan_score": 119.0 / rank if direction == "proponent" else -119.0 / rank,
        "sequence_id": 2**32 + rank + 1000 * (direction == "opponent"),
        "content_digest": "ab" * 16,
        "document_id": f"document-{rank}",
        "shard": "shard-00001.parquet",
        "row": rank,
        "n_tokens": 4,
        "char_start": 0,
        "char_end": 12,
        "metadata": {"licence": "CC0", "source": "books"},
        "document_file": "books.jsonl",
        "document_row": rank,
        "token_start": 0,
        "text": "One two three four",
        "tokens": [1, 2, 3, 4],
        "token_texts": ["One", " two", " three", " four"],
        "token_scores": [100.0, -50.0, 70.0, 0.0],
        "layer_scores": [("h.0.mlp", 100.0), ("h.1.mlp", 20.0)],
        "beyond_linear": False,
        "concentration": 0.2,
        "carried_by": None,
        "carrier_in_completion": None,
        "suspect": False,
        "near_duplicate_of": None,
        **changes,
    }


def query(query_id: str = "q", **changes: Any) -> dict[str, Any]:
    return {
        "query_id": query_id,
        "prompt": "The capital of Tresk is",
        "completion": " Belmora",
        "metadata": {"kind": "fact"},
        "log_probability": -1.5,
        "n_completion_tokens": 2,
        "token_texts": [" Bel", "mora"],
        "token_log_probabilities": [-1.0, -0.5],
        "greedy": True,
        "warning": None,
        **changes,
    }


def make_results(
    rows: Sequence[dict],
    queries: Sequence[dict[str, Any]] | None = None,
    groups: Sequence[dict] = (),
    method: str = "ekfac",
    statistics: Sequence[dict] = (),
    **manifest: Any,
) -> Results:
    asked = [query()] if queries is None else list(queries)
    # Rows that differ in what is a sequence's are different sequences, even with one id.
    rows = [{**r} for r in rows]
    seen: dict[int, dict] = {}
    of_a_hit = set(survivor_schema(Meaning()).names)
    for r in rows:
        own = {k: v for k, v in r.items() if k not in of_a_hit}
        while seen.setdefault(r["sequence_id"], own) != own:
            r["sequence_id"] += 10**6
    sequences = sorted({r["sequence_id"]: r for r in rows}.values(), key=lambda r: r["sequence_id"])
    return Results(
        method,
        Rows(pa.Table.from_pylist(rows, schema=survivor_schema(Meaning()))),
        Rows(table_of(sequences, sequence_schema)),
        table_of(asked, query_schema),
        pa.Table.from_pylist(list(groups), schema=GROUP_SCHEMA),
        pa.Table.from_pylist(list(statistics), schema=STATISTICS_SCHEMA),
        TAIL_SCHEMA.empty_table(),
        {"n_sequences": 1000, "queries": asked, "methods": {method: {}}, **manifest},
    )


def table_of(rows: Sequence[dict], schema_of: Callable[[Any], pa.Schema]) -> pa.Table:
    """Rows with metadata of any kind, as the tables of results have them."""
    metadata = [r.get("metadata") or {} for r in rows]
    schema = schema_of(kinds_of(metadata))
    made = columns(metadata, schema)
    plain = pa.Table.from_pylist(list(rows), pa.schema([f for f in schema if f.name not in made]))
    for name, column in made.items():
        plain = plain.append_column(schema.field(name), column)
    return plain.select(schema.names).cast(schema)


def group(value: str, query_id: str = "q", **changes: Any) -> dict[str, Any]:
    return {
        "query_id": query_id,
        "column": "source",
        "value": value,
        "value_type": "string",
        "n_sequences": 1234,
        "share_of_corpus": 0.05,
        "positive_sum": 9.0,
        "negative_sum": -1.0,
        "mean_score": 0.25,
        "mean_score_error": 0.125,
        "top": 10,
        "in_top": 8,
        "lift": 16.0,
        "lift_low": 9.8,
        "lift_high": 18.9,
        **changes,
    }


def both_sides(query_id: str = "q", n: int = 3, **changes: Any) -> list[dict]:
    sides = ("proponent", "opponent")
    return [row(query_id, rank, side, **changes) for side in sides for rank in range(1, n + 1)]


class Page(HTMLParser):
    """The elements of a page, and its text apart from style and script."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.pieces: list[str] = []
        self.feed(page)
        self.close()
        self.text = "".join(self.pieces)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in {"meta", "input"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.pieces.append(data)

    def of_class(self, pattern: str) -> list[dict[str, str | None]]:
        return [a for _, a in self.elements if re.fullmatch(pattern, a.get("class") or "")]


def page_of(*results: Results, **options: Any) -> Page:
    return Page(render_page({r.method: r for r in results}, **options))


def terminal_of(results: Results, width: int = 80, n: int = 5, color: bool = False) -> str:
    file = io.StringIO()
    system = "truecolor" if color else None
    render(results, Console(file=file, width=width, force_terminal=color, color_system=system), n)
    return file.getvalue()


def hostile_results() -> Results:
    rows = both_sides(
        HOSTILE,
        document_id=HOSTILE,
        shard=HOSTILE,
        content_digest=HOSTILE,
        token_texts=["x", HOSTILE, "</b>", HOSTILE],
        layer_scores=[(f"h.{n}.{HOSTILE}", 10.0 * n - 5) for n in range(3)] + [(HOSTILE, 3.0)],
        suspect=True,
        beyond_linear=True,
        carried_by=1,
        carrier_in_completion=True,
        near_duplicate_of=7,
        document_file=HOSTILE,
        text=HOSTILE,
        metadata={"source": HOSTILE, HOSTILE: HOSTILE},
    )
    hostile_query = query(
        HOSTILE,
        prompt=HOSTILE * 40,
        completion=HOSTILE,
        token_texts=[HOSTILE, HOSTILE],
        warning=HOSTILE,
        metadata={HOSTILE: HOSTILE},
    )
    return make_results(
        rows,
        [hostile_query, query("other")],
        [group(HOSTILE, HOSTILE, column=HOSTILE)],
        HOSTILE,
        model={
            "path": f"models/{HOSTILE}",
            "commit": HOSTILE,
            "digest": HOSTILE,
            "architecture": HOSTILE,
            "modules": [HOSTILE],
            "parameters": 9,
            "tracked_parameters": 4,
            "reached_parameters": 9,
            "untracked": {HOSTILE: 5},
        },
        tokenizer={"digest": HOSTILE},
        corpus={"fingerprint": HOSTILE, "url": HOSTILE, "bad_documents": 3},
        factors={
            "fingerprint": HOSTILE,
            "n_sequences": 9,
            "error": 0.1,
            "error_bound": 0.02,
            "singular": {HOSTILE: 2},
        },
        fingerprint=HOSTILE,
        set_aside=[{"name": HOSTILE, "reason": HOSTILE}],
        config={
            "queries": HOSTILE,
            "tokenizer": HOSTILE,
            "modules": [HOSTILE],
            "corpus": {"documents": [HOSTILE], "text_column": HOSTILE},
            "scan": {"damping_scale": 0.1},
            "fit": {"labels": HOSTILE, "blocks": 2},
            "storage": {"endpoint_url": HOSTILE},
        },
        preflight={"context": 4},
        methods={
            HOSTILE: {
                "banks": [HOSTILE],
                "rank": 4,
                "damping": {HOSTILE: 0.1},
                "quarantined": [{"sequence_id": HOSTILE, "reason": HOSTILE, "queries": [HOSTILE]}],
            }
        },
        numerics={HOSTILE: HOSTILE},
        versions={HOSTILE: HOSTILE},
        stages={HOSTILE: {"seconds": 1.0}},
        warnings=[HOSTILE],
    )


def full_results(n_queries: int = 2, n: int = 3, method: str = "ekfac") -> Results:
    queries = [query(f"q{index}") for index in range(n_queries)]
    groups = [group(value, q["query_id"]) for q in queries for value in ("web", "books")]
    rows = [r for q in queries for r in both_sides(q["query_id"], n)]
    return make_results(rows, queries, groups, method)
