"""`rayinfluence plot`: which files it writes, what it says, and what it refuses."""

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import rayinfluence
from rayinfluence.config import RunConfig
from rayinfluence.testing import tiny_run

Say = Callable[..., tuple[int, str, str]]
Finished = tuple[Path, RunConfig]


def test_a_picture_is_four_files(finished: Finished, say: Say, tmp_path: Path) -> None:
    out = tmp_path / "for a paper"
    arguments = "--kind", "tail", "--kind", "layers", "--query", "q1", "--out", out
    code, printed, errors = say("plot", finished[1].run, *arguments)
    assert (code, errors) == (0, "")
    assert {path.name for path in out.iterdir()} == {
        f"{kind}-2-q1-ekfac.{ending}"
        for kind in ("tail", "layers")
        for ending in ("png", "svg", "csv", "json")
    }
    assert "tail-2-q1-ekfac: The 5 proponents shown are the largest of " in printed
    assert printed.endswith(f"2 pictures in {out}, each as .png, .svg, .csv and .json\n")
    results = rayinfluence.load_results(finished[1].run)
    whole = json.loads((out / "tail-2-q1-ekfac.json").read_text())
    assert whole["results"] == results.manifest["fingerprint"]
    [statistics] = [one for one in results.statistics.to_pylist() if one["query_id"] == "q1"]
    with (out / "tail-2-q1-ekfac.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    counted = sum(int(one["sequences"]) for one in rows)
    assert counted == statistics["n_positive"] + statistics["n_negative"] > 0


def test_what_cannot_be_drawn_is_named(finished: Finished, say: Say, tmp_path: Path) -> None:
    code, printed, errors = say("plot", finished[1].run, "--out", tmp_path)
    assert code == 0
    # Three queries by one method: six kinds of pictures, and nothing to agree with.
    assert "18 pictures in" in printed
    assert "agreement: nothing to draw for 3 of 3 queries. `scan.methods` has no other" in errors
    code, _, errors = say("plot", finished[1].run, "--kind", "agreement", "--out", tmp_path)
    assert code == 4
    assert "error: plot: the results have nothing to draw of agreement." in errors


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--kind", "tails"], 2, "--kind tails: the kinds of pictures are tail, concentration"),
        (["--query", "q9"], 4, "--query q9: ekfac was not asked that; it was asked 3, such as q0."),
        (["--method", "bm25"], 2, "--method bm25: the run has ekfac."),
        (["--out", "https://example.org/x"], 2, "--out: 'https://example.org/x' is on the web"),
    ],
)
def test_mistakes_are_sentences(
    finished: Finished, say: Say, arguments: list[str], code: int, sentence: str
) -> None:
    found, _, errors = say("plot", finished[1].run, *arguments)
    assert (found, sentence in errors) == (code, True), errors


def test_ids_of_queries_do_not_leave_the_folder(say: Say, tmp_path: Path) -> None:
    config = tiny_run(tmp_path, 12)
    lines = [json.loads(line) for line in Path(config.queries or "").read_text().splitlines()]
    ids = ["../../etc/passwd", "\x1b[31m.\u202e/", "CON"]
    rows = [{**line, "query_id": name} for line, name in zip(lines, ids, strict=True)]
    Path(config.queries or "").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rayinfluence.run(config)
    out = tmp_path / "out"
    code, printed, _ = say("plot", config.run, "--kind", "tail", "--out", out)
    assert code == 0
    assert "\x1b" not in printed
    assert sorted(path.name for path in out.glob("*.png")) == [
        "tail-1-etc-passwd-ekfac.png",
        "tail-2-31m-ekfac.png",
        "tail-3-CON-ekfac.png",
    ]


def test_nothing_is_read_before_matplotlib_is_there(
    say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, _, errors = say("plot", tmp_path / "no run")
    assert code == 2
    assert "pip install 'rayinfluence[plot]'" in errors
