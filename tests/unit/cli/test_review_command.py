"""`rayinfluence review`: from a run to sheets, and from sheets to figures."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rayinfluence.config import RunConfig

Say = Callable[..., tuple[int, str, str]]
Finished = tuple[Path, RunConfig]
DOCS = Path(__file__).parents[3] / "docs"


def filled(sheet: Path, rater: str, to: Path) -> Path:
    rows = list(csv.DictReader(io.StringIO(sheet.read_bytes().decode("utf-8-sig"))))
    with to.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["export", "item", "rater", "about", "relates"])
        writer.writeheader()
        for place, row in enumerate(rows):
            relates = ("irrelevant", "topic", "states")[(place + len(rater)) % 3]
            answers = {"rater": rater, "about": "a", "relates": relates}
            writer.writerow({"export": row["export"], "item": row["item"], **answers})
    return to


def test_from_a_run_to_sheets_and_back(finished: Finished, say: Say, tmp_path: Path) -> None:
    run, out = finished[1].run, tmp_path / "review"
    topics = ("--topic", "a", "--topic", "b")
    code, printed, errors = say(
        "review", "export", run, "--out", out, "--top", 2, "--random", 1, *topics, "--json"
    )
    assert (code, errors) == (0, "")
    told = json.loads(printed)
    assert {path.name for path in out.iterdir()} == {"sheet.csv", "sheet.html", "key.json"}
    assert told["methods"] == ["ekfac", "random sequences"]
    key = json.loads((out / "key.json").read_text())
    assert key["export"] == told["export"]
    assert len(key["items"]) == told["items"]
    drawn = [one for one in key["items"] if "random sequences" in one["by"]]
    assert len(drawn) == told["queries"]
    sheets = [filled(out / "sheet.csv", name, tmp_path / f"{name}.csv") for name in ("Ada", "Bo")]
    arguments = ("review", "import", *sheets, "--key", out / "key.json")
    code, printed, errors = say(*arguments, "--out", tmp_path / "found")
    assert (code, errors) == (0, "")
    assert "Krippendorff's alpha" in printed
    assert "random sequences" in printed
    code, printed, _ = say(*arguments, "--json")
    values = json.loads(printed)
    written = json.loads((tmp_path / "found" / "review.json").read_text())
    assert values == {**written, "page": None}
    assert [one["rater"] for one in values["raters"]] == ["Ada", "Bo"]
    reference = (DOCS / "reference.md").read_text("utf-8")
    assert all(f"`{name}`" in reference for name in {**values, **told} if name != "format")
    code, _, errors = say("review", "export", run, "--out", out)
    assert (code, "there is a key.json already" in errors) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--method", "tfidf"], "--method tfidf: the run has ekfac."),
        (["--query", "nope"], "--query nope: the run has q0"),
        (["--topic", "a", "--topic", "A"], "--topic: name different ones, none of them empty."),
    ],
)
def test_what_cannot_be_exported_is_refused(
    arguments: list[str], sentence: str, finished: Finished, say: Say, tmp_path: Path
) -> None:
    code, _, errors = say("review", "export", finished[1].run, "--out", tmp_path / "x", *arguments)
    assert (code, sentence in errors) == (2, True)
    assert not (tmp_path / "x").exists()


def test_what_is_no_sheet_or_key_is_refused(say: Say, tmp_path: Path) -> None:
    sheet = tmp_path / "a.csv"
    sheet.write_text("a,b\n")
    for body in ("no json", "{}"):
        (tmp_path / "key.json").write_text(body)
        code, _, errors = say("review", "import", sheet, "--key", tmp_path / "key.json")
        assert (code, "name the key.json" in errors) == (4, True)
