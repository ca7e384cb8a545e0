import io

import pytest
from rich.console import Console

from rayinfluence.dataflow.stages import progress as module
from rayinfluence.dataflow.stages.progress import ProgressLog, Timing


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    ours = Clock()
    monkeypatch.setattr(module, "time", ours)
    return ours


@pytest.mark.parametrize("terminal", [False, True])
def test_a_stage_is_timed_with_its_tokens(clock: Clock, terminal: bool) -> None:
    said = io.StringIO()
    log = ProgressLog(Console(file=said, width=200, force_terminal=terminal))
    with log.stage("scan", 1000) as stage:
        stage.skip(400)
        clock.now = 2.0
        stage.advance(600)
    assert log.timings == {"scan": Timing(2.0, 600)}
    assert log.timings["scan"].tokens_per_second == 300
    assert "done in 2.0 s, 300 tokens/s" in said.getvalue()


def test_plain_lines_come_every_ten_seconds_with_the_time_left(clock: Clock) -> None:
    said = io.StringIO()
    log = ProgressLog(Console(file=said, width=200))
    with log.stage("scan", 1000) as stage:
        for second in range(1, 26):
            clock.now = float(second)
            stage.advance(20)
    lines = said.getvalue().splitlines()
    assert [line.split(maxsplit=1)[1] for line in lines] == [
        "20 %, 20 tokens/s, 40 s left",
        "40 %, 20 tokens/s, 30 s left",
        "done in 25.0 s, 20 tokens/s",
    ]


def test_a_stage_that_fails_leaves_no_timing(clock: Clock) -> None:
    log = ProgressLog(Console(file=io.StringIO()))
    with pytest.raises(ZeroDivisionError), log.stage("fit", 10) as stage:
        stage.advance(5 // 0)
    assert log.timings == {}


def test_a_stage_without_tokens_or_time_divides_by_nothing(clock: Clock) -> None:
    said = io.StringIO()
    log = ProgressLog(Console(file=said, width=200))
    with log.stage("merge"):
        pass
    with log.stage("more than planned", 1) as stage:
        clock.now = 20.0
        stage.advance(50)
    assert "merge" not in said.getvalue()  # nothing worth a line
    assert log.timings["merge"] == Timing(0.0, 0)
    assert "100 %" in said.getvalue()
    assert Timing(0.0, 5).tokens_per_second == 0.0


def test_what_users_wrote_is_not_markup() -> None:
    said = io.StringIO()
    ProgressLog(Console(file=said, width=200)).note("query [bold]q[/bold] [/]")
    assert said.getvalue() == "query [bold]q[/bold] [/]\n"


def test_ids_of_queries_are_no_markup(clock: Clock) -> None:
    said = io.StringIO()
    log = ProgressLog(Console(file=said, width=200))
    with log.stage("scan", 1000) as stage:
        stage.names = {"a": "docs[/law]", "b": "q[bold]1"}
        stage.lead({"a": (1.0, 3), "b": (2.0, 4)})
        clock.now = 11.0
        stage.advance(20)
    assert "docs[/law]: sequence 3 (+1), q[bold]1: sequence 4 (+2)" in said.getvalue()


def test_a_stage_that_comes_again_is_added_up(clock: Clock) -> None:
    log = ProgressLog(Console(file=io.StringIO()))
    for _ in range(2):
        with log.stage("moments", 10) as stage:
            clock.now += 2.0
            stage.advance(10)
    assert log.timings == {"moments": Timing(4.0, 20)}


HOSTILE = "q\x1b]0;title\x07\x1b[2J\r\n\x85\u202e\u200b\u2028\U000e0041end"
SHOWN = "q␛]0;title␇␛[2J␍␊[U+0085][U+202E][U+200B][U+2028][U+E0041]end"


def test_ids_and_names_of_others_command_no_terminal(clock: Clock) -> None:
    said = io.StringIO()
    log = ProgressLog(Console(file=said, width=1000))
    log.note(f"warning: {HOSTILE}")
    with log.stage("scan", 1000) as stage:
        stage.names = {"a": HOSTILE}
        stage.lead({"a": (1.0, 3)})
        clock.now = 11.0
        stage.advance(20)
    assert said.getvalue().startswith(f"warning: {SHOWN}\n")
    assert f"leading so far: {SHOWN}: sequence 3" in said.getvalue()
    assert len(said.getvalue().splitlines()) == 4


def test_what_is_to_be_quiet_prints_warnings_alone(clock: Clock) -> None:
    said = io.StringIO()
    log = ProgressLog(Console(file=said, width=20), quiet=True)
    with log.stage("scan", 100) as stage:
        clock.now = 20.0
        stage.advance(50)
    log.note("a note")
    log.warn("a \x1b[31mwarning that is longer than a line")
    assert said.getvalue() == "warning: a \u241b[31mwarning that is longer than a line\n"
    assert log.timings["scan"].tokens == 50
