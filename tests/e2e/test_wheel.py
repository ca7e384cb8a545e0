"""The wheel in an environment that holds nothing but it and what it declares."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rayinfluence import __version__
from rayinfluence.testing import tiny_run

ROOT = Path(__file__).parents[2]


@pytest.mark.deploy
@pytest.mark.timeout(900)
def test_a_wheel_in_an_empty_environment_runs_the_command_line(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    # Nothing of this environment or of the checkout is found by accident.
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "RAY_")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}

    def do(*command: str | Path) -> str:
        done = subprocess.run(
            [str(part) for part in command],
            cwd=elsewhere,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    do(*pip, "wheel", "--no-deps", "--wheel-dir", tmp_path / "dist", ROOT)
    [wheel] = (tmp_path / "dist").iterdir()
    assert wheel.name == f"rayinfluence-{__version__}-py3-none-any.whl"
    venv = tmp_path / "venv"
    do(sys.executable, "-m", "venv", "--without-pip", venv)
    python = venv / "bin" / "python"
    # Its dependencies as it declares them; constraints only choose among their versions.
    constraints = ("-c", ROOT / "constraints.txt")
    do(*pip, "--python", python, "install", "--no-compile", *constraints, wheel)
    where = do(python, "-c", "import rayinfluence; print(rayinfluence.__file__)")
    assert Path(where.strip()).is_relative_to(venv)

    program = venv / "bin" / "rayinfluence"
    assert do(program, "version") == f"{__version__}\n"
    assert "influence functions" in do(program, "--help")
    config = tiny_run(tmp_path / "run of mine")
    (elsewhere / "run.yaml").write_text(config.model_dump_json())
    assert "report: " in do(program, "run", "run.yaml")
    assert "<style>" in (Path(config.run) / "report.html").read_text()
    assert do(program, "status", config.run).splitlines()[-1].split()[:2] == ["results", "1/1"]
    shutil.rmtree(venv)  # a gigabyte, which pytest would keep
