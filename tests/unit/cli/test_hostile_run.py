"""What commands print, log and write of a run whose texts and names are an attacker's."""

from __future__ import annotations

import csv
import json
import os
import pty
import re
import sys
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import pytest
from hostile_run import TEXTS, hostile_run

from rayinfluence import cli
from rayinfluence.text import visible

pytestmark = pytest.mark.runs

Say = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    path = folder / "run.yaml"
    path.write_text(hostile_run(folder).model_dump_json())
    return path


#: What we put around texts that run the other way ourselves: a pair on a line, never one of them.
ISOLATES = "\u2068\u2069"


def shown(text: str) -> str:
    """What of a text acts or hides."""
    for line in text.splitlines():
        depths = list(accumulate((one == "\u2068") - (one == "\u2069") for one in line))
        if depths and (min(depths) < 0 or depths[-1]):
            return line
    return "".join(one for one in text if one not in "\n\t" + ISOLATES and visible(one) != one)


@pytest.fixture(scope="module")
def logged(file: Path) -> str:
    """What a whole run says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["rayinfluence", "run", str(file)])
        written = (file.parent / "log").open("w+")
        patch.setattr(sys, "stderr", written)
        patch.setattr(sys, "stdout", written)
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code in (0, None)
        written.seek(0)
        return written.read()


def test_a_run_logs_nothing_that_acts(logged: str) -> None:
    assert "scan" in logged
    assert "</script></style>" in logged  # as the id of a query that the model would not say
    assert shown(logged) == ""


COMMANDS = [
    ["report"],
    ["report", "--query", TEXTS[7][:200]],
    ["report", "--query", TEXTS[8][:200], "--query", TEXTS[9][:200]],
    ["status"],
    ["corpus", "stats"],
    ["corpus", "head"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: " ".join(words).split(" --")[0])
def test_commands_print_nothing_that_acts(
    command: list[str], file: Path, logged: str, say: Say
) -> None:
    *words, run = [*command, file.parent / "run"]
    place = 2 if command[0] == "corpus" else 1
    code, printed, errors = say(*words[:place], run, *words[place:])
    assert code == 0, errors
    assert len(printed) > 100
    assert shown(printed + errors) == ""
    code, printed, errors = say(*words[:place], run, *words[place:], "--json")
    assert code == 0, errors
    assert shown(printed + errors) == ""
    json.loads(printed)


def test_cells_of_csv_are_no_formulas(file: Path, logged: str, say: Say, tmp_path: Path) -> None:
    path = tmp_path / "hits.csv"
    assert say("report", file.parent / "run", "--csv", path)[0] == 0
    with path.open(newline="", encoding="utf-8-sig") as opened:
        rows = list(csv.reader(opened))
    assert len(rows) > 100
    cells = [cell for row in rows for cell in row]
    assert any("HYPERLINK" in cell for cell in cells)
    for cell in cells:
        if cell[:1] in ("=", "+", "-", "@", "\t", "\r"):
            float(cell)  # a number, or a formula
        assert not set(cell) & set("\x00\x1b\x9b\u202e")


def test_a_terminal_gets_no_commands_of_others(file: Path, logged: str) -> None:
    """On a terminal there are colours: those of the display, and nothing else."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm-256color", COLUMNS="200")
        program = "from rayinfluence.cli import main; main()"
        run = str(file.parent / "run")
        os.execv(
            sys.executable, [sys.executable, "-c", program, "report", run, "--query", TEXTS[7]]
        )
    printed = b""
    try:
        while piece := os.read(terminal, 65536):
            printed += piece
    except OSError:  # Linux ends a terminal so
        pass
    os.close(terminal)
    assert os.waitpid(pid, 0)[1] == 0
    text = printed.decode()
    assert "title" in text
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert plain != text
    assert shown(plain.replace("\r\n", "\n")) == ""
