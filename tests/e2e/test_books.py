"""Books of XHTML, a folder each, go to results by author: `jobs/books.yaml` and its benchmark."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rayinfluence.storage.results import Results
from rayinfluence.storage.store import Store

pytestmark = pytest.mark.runs

PROJECT = Path(__file__).parents[2]
PAGE = (
    '<?xml version="1.0" encoding="utf-8"?>\n<html xmlns="http://www.w3.org/1999/xhtml">'
    "<head><title>{title}</title></head><body><section>{paragraphs}</section></body></html>\n"
)
#: What each author goes on about.
SUBJECTS = {
    "ann-harbour_tides": ("the harbour", "boats", "the keeper of the light"),
    "ben-mill_bread_a-translator": ("the oven", "loaves", "the baker of our street"),
    "cleo-hill_sheep": ("the meadow", "lambs", "the shepherd on the hill"),
}


def chapter(number: int, place: str, things: str, person: str) -> str:
    paragraphs = [
        f"<p>In the year {number} {person} came down to {place} before dawn, and counted {things} "
        f"until the bell rang {day} times. Nobody who has seen {things} near {place} forgets how "
        f"{person} called out to them and waited for an answer.</p>"
        for day in range(6)
    ]
    return PAGE.format(title=f"Chapter {number}", paragraphs="".join(paragraphs))


@pytest.fixture
def books(tmp_path: Path) -> Path:
    """Three books of three chapters and one of a single file, with what a publisher adds."""
    folder = tmp_path / "books"
    for name, said in SUBJECTS.items():
        (folder / name).mkdir(parents=True)
        for number in (1, 2, 3):
            (folder / name / f"chapter-{number}.xhtml").write_text(chapter(number, *said))
        (folder / name / "colophon.xhtml").write_text(PAGE.format(title="", paragraphs="Set in"))
        (folder / name / "LICENSE.md").write_text("Do as you like.")
    (folder / "old-dan_animals").mkdir()
    fables = chapter(9, "the well", "foxes", "the crow of the village")
    (folder / "old-dan_animals" / "fables.xhtml").write_text(fables)
    return folder


@pytest.mark.timeout(600)
def test_authors_of_held_out_sentences_are_looked_for(books: Path, tmp_path: Path) -> None:
    script = str(PROJECT / "tests" / "benchmarks" / "books.py")
    options = ["--seeds", "0", "--epochs", "1", "--questions", "2", "--folder", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, script, str(books), *options],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "0"
    queries = [json.loads(line) for line in (folder / "queries.jsonl").read_text().splitlines()]
    authors = {name.split("_")[0] for name in SUBJECTS}
    # A sentence of a chapter that is not in the corpus, of each author who has several.
    assert sorted(one["metadata"]["author"] for one in queries) == sorted([*authors, *authors])
    assert "7 files" in done.stdout
    assert "3 files held out" in done.stdout
    results = Results.load(Store(str(folder / "run")), "ekfac")
    scanned = {(row["book"], row["chapter"]) for row in all_metadata(results)}
    assert ("animals", "fables") in scanned
    assert not {chapter for _, chapter in scanned} & {"colophon", "LICENSE"}
    assert {group["value"] for group in results.groups.to_pylist()} == {*authors, "old-dan"}
    for method in ("ekfac", "gradient_product", "bm25", "tfidf"):
        assert f"| `{method}` | " in done.stdout
    # By words the place and the people of an author's book are found, whatever the model knows.
    row = next(line for line in done.stdout.splitlines() if line.startswith("| `bm25`"))
    assert float(row.split("|")[2].split()[0]) == 1.0
    assert "| chance | 0.25 |" in done.stdout


def all_metadata(results: Results) -> list[dict[str, str]]:
    return [one.metadata for query in results.queries for one in results.proponents(query)]
