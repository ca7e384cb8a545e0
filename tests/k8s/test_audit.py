import runpy
from pathlib import Path
from typing import Any

import pytest

UNKNOWN: dict[str, Any] = {"name": "a", "skip_reason": "not found"}
SAFE: dict[str, Any] = {"name": "b", "version": "1", "vulns": []}
FLAWED: dict[str, Any] = {
    "name": "c",
    "version": "1",
    "vulns": [{"id": "PYSEC-1", "fix_versions": ["2"]}],
}


@pytest.mark.parametrize(
    ("found", "code", "said"),
    [
        ([], 0, "audit skipped"),
        ([UNKNOWN], 0, "audit skipped"),
        ([SAFE], 0, "1 packages audited, 0 findings"),
        ([SAFE, UNKNOWN], 0, "not audited: a"),
        ([SAFE, FLAWED], 1, "c 1: PYSEC-1"),
    ],
)
def test_what_is_not_audited_is_not_called_safe(
    project: Path, found: list[dict[str, Any]], code: int, said: str
) -> None:
    lines, exit_code = runpy.run_path(str(project / "deploy/audit.py"))["judge"](found)
    assert (exit_code, said in "\n".join(lines)) == (code, True)
