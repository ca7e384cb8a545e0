"""docs/models.md says what the tests of families find."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from rows import FILE, how_far_off, power, what_is_tracked
from test_families import BY_NAME, checked

from rayinfluence.storage.results import Results

pytestmark = pytest.mark.runs

#: Of kinds of blocks that differ; `make test-models` has all.
FEW = ("Gemma2", "Mamba", "Mixtral", "T5 (seq2seq)", "Llama with LoRA")

#: What rounding of norms and angles in float32 does to a run.
FLOAT32 = 1e-7


@pytest.mark.parametrize("name", FEW)
def test_some_families_are_what_their_page_says(
    name: str, tmp_path: Path, execute: Callable[..., dict[str, Results]]
) -> None:
    one, page = checked(BY_NAME[name], tmp_path, execute), FILE.read_text("utf-8")
    assert what_is_tracked(one) in page
    (line,) = [line for line in page.splitlines() if line.startswith(f"| {name} | 1e-")]
    there, found = ([cell.strip() for cell in text.split("|")] for text in (line, how_far_off(one)))
    kinds = len(one["errors"])
    assert there[kinds + 2 :] == found[kinds + 2 :]
    for said, (kind, error) in zip(there[2 : kinds + 2], one["errors"].items(), strict=True):
        # Machines round otherwise, and what stays in float32 shows it in runs alone.
        least = FLOAT32 if kind == "run" else 0.0
        assert power(error) <= 10 * max(float(said), least)


def test_the_page_has_every_family() -> None:
    page = FILE.read_text("utf-8")
    assert [name for name in BY_NAME if f"\n| {name} | " not in page] == []
