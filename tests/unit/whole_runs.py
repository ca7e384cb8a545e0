"""What tests of whole runs share: when objects were written, and what results hold."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rayinfluence.config import RunConfig
from rayinfluence.storage.results import QUERIES, SEQUENCES, Results, method_tables

Execute = Callable[..., dict[str, Results]]
Change = Callable[..., RunConfig]
Contents = Callable[[Path], dict[str, bytes]]
Done = tuple[Path, RunConfig]

TABLES = (*method_tables("ekfac"), QUERIES, SEQUENCES)


def times(run: Path) -> dict[str, int]:
    """When each committed object was written."""
    return {
        str(path.relative_to(run)): path.stat().st_mtime_ns
        for path in run.rglob("*.*")
        if path.suffix in (".safetensors", ".parquet")
    }


def partials(run: Path) -> dict[str, int]:
    return {key: time for key, time in times(run).items() if "/partials/" in key}


def survivors(results: Results) -> dict[tuple[str, str, int], float]:
    """Scores by query, direction and sequence."""
    rows = results.table.select(["query_id", "direction", "sequence_id", "score"]).to_pylist()
    return {(r["query_id"], r["direction"], r["sequence_id"]): r["score"] for r in rows}


def results_of(run: Path) -> Path:
    """The folder of the current results."""
    manifest = json.loads((run / "results" / "manifest.json").read_text())
    return run / "results" / str(manifest["fingerprint"])


def of_query(run: Path, query_id: str) -> pa.Table:
    table = pq.read_table(results_of(run) / TABLES[0])
    return table.filter(pa.compute.equal(table["query_id"], query_id))


def add_query(folder: Path, query_id: str = "new", prompt: str = "w1 w2") -> None:
    with (folder / "queries.jsonl").open("a") as file:
        row = {"query_id": query_id, "prompt": prompt, "completion": " w3 w4"}
        file.write(json.dumps(row) + "\n")
