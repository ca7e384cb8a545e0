"""The corpus and the configuration that docs/methods.md measures values of groups on.

    python tests/benchmarks/quality_banks.py tuned [--folder runs/quality]
    python tests/benchmarks/shapley_bank.py [--folder runs/quality]

The documents and questions of the bank `tuned`, each document with the part that it is of: the
language reference (topics), docstrings, or planted facts of presidents, capitals or rivers.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from quality_banks import JOBS, PLACE, THERE, write_lines


def main() -> None:
    """Write the bank's files, and print where its configuration is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(PLACE))
    options = parser.parse_args()
    tuned, folder = options.folder / "tuned", options.folder / "shapley"
    folder.mkdir(parents=True, exist_ok=True)
    lines = (tuned / "documents.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    for row in rows:
        planted = row["source"] == "planted"
        row["part"] = row["fact_id"].partition("-")[0] if planted else row["source"]
    write_lines(folder / "documents.jsonl", rows)
    (folder / "queries.jsonl").write_bytes((tuned / "queries.jsonl").read_bytes())
    config = (JOBS / "shapley.yaml").read_text("utf-8")
    written = folder / "config.yaml"
    written.write_text(config.replace(THERE, str(options.folder.absolute())), encoding="utf-8")
    print(written)


if __name__ == "__main__":
    main()
