"""Ask for known vulnerabilities of what the image installs; say so where nobody can be asked."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

LOCK = Path(__file__).parent / "requirements.lock"


def judge(dependencies: list[dict[str, Any]]) -> tuple[list[str], int]:
    """What to print about pip-audit's findings, and the exit code.

    A package that the service does not know was not audited, and does not count as safe.
    """
    skipped = [found["name"] for found in dependencies if "skip_reason" in found]
    if len(skipped) == len(dependencies):
        return ["audit skipped: the vulnerability service cannot be reached from here."], 0
    lines = [
        f"{found['name']} {found['version']}: {flaw['id']}, fixed in {flaw['fix_versions'] or '?'}"
        for found in dependencies
        for flaw in found.get("vulns", [])
    ]
    code = 1 if lines else 0
    lines.append(f"{len(dependencies) - len(skipped)} packages audited, {len(lines)} findings")
    if skipped:
        lines.append(f"not known to the service, and not audited: {', '.join(skipped)}")
    return lines, code


if __name__ == "__main__":
    arguments = ["--disable-pip", "--require-hashes", "--progress-spinner", "off", "-f", "json"]
    done = subprocess.run(
        [sys.executable, "-m", "pip_audit", *arguments, "-r", str(LOCK)],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        dependencies = json.loads(done.stdout)["dependencies"]
    except ValueError:
        if "onnection" not in done.stderr:
            sys.exit(done.stderr or done.returncode)
        dependencies = []
    lines, code = judge(dependencies)
    print("\n".join(lines))
    sys.exit(code)
