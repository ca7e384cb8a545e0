import logging
import pickle
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import rayinfluence
from rayinfluence.config import RunConfig
from rayinfluence.config_corpus import CorpusConfig
from rayinfluence.dataflow.runners.ray.logs import JsonLines
from rayinfluence.errors import CorpusError
from rayinfluence.report import render_page
from rayinfluence.storage import retry
from rayinfluence.storage.results import Results
from rayinfluence.storage.store import Store
from rayinfluence.testing import tiny_run
from rayinfluence.text import visible, visible_line, visible_parts

Say = Callable[..., tuple[int, str, str]]
ACTING = [
    *(code for code in range(0xA0) if chr(code) not in "\t\n" and not 0x20 <= code < 0x7F),
    *(0xAD, 0x34F, 0x61C, 0x3164, 0xFEFF),
    *range(0x200B, 0x2010),
    *range(0x2028, 0x202F),
    *range(0x2060, 0x2070),
    *range(0xFE00, 0xFE0E),
    *range(0xE0000, 0xE0080),
    *range(0xE0100, 0xE01F0),
]


def test_characters_that_act_or_hide_are_shown() -> None:
    for code in ACTING:
        shown = visible(f"a{chr(code)}b")
        assert chr(code) not in shown, hex(code)
        assert len(shown) >= 3
        assert visible(shown) == shown


@pytest.mark.parametrize(
    "text", ["plain", "é ü 漢字 עברית العربية", "a\tb\nc", "😀❤\ufe0f", "e\u0301", ""]
)
def test_what_shows_already_is_left_alone(text: str) -> None:
    assert visible(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "👨\u200d👩\u200d👧",
        "👩🏽\u200d⚕\ufe0f ❤\ufe0f\u200d🔥 🙂\u200d↔\ufe0f",
        "می\u200cخواهم",  # noqa: RUF001
        "क्\u200dष र\u200d्य",
        "ක්\u200dෂ",
    ],
)
def test_joiners_with_which_a_script_is_written_stay(text: str) -> None:
    assert visible(text) == text
    assert "".join(visible_parts(list(text))) == text
    assert visible(f"x\u200b{text}\u202e") == f"x[U+200B]{text}[U+202E]"


@pytest.mark.parametrize(
    "text",
    ["a\u200db", "\u200d", "1\u200c2", "👨\u200d", "👨\u200dx", "\u200d👨", "ب\u200c\u200cب"],
)
def test_joiners_that_only_hide_are_shown(text: str) -> None:
    assert "[U+200" in visible(text)
    assert visible(visible(text)) == visible(text)


def test_a_line_stays_one_line() -> None:
    assert visible_line("a\nb\r\nc\u2028d") == "a␊b␍␊c[U+2028]d"


def test_file_names_and_columns_reach_the_terminal_visibly(tmp_path: Path, say: Say) -> None:
    name = "evil\x1b]0;title\x07\u202e"
    documents = tmp_path / f"{name}.parquet"
    pq.write_table(pa.table({f"body{name}": ["x"]}), documents)
    config = tiny_run(tmp_path, corpus={"documents": [str(documents)]})
    path = tmp_path / f"{name}.yaml"
    path.write_text(config.model_dump_json())
    for arguments in (["tokenize", path], ["status", f"{path}.typo"], ["clean", tmp_path / name]):
        stage = ["--stage", "scan", "--yes"] if arguments[0] == "clean" else []
        code, printed, errors = say(*arguments, *stage)
        assert code in (2, 4)
        assert not set(printed + errors) & set("\x1b\x07\u202e")
        assert "evil␛]0;title␇[U+202E]" in errors


def test_markup_in_a_run_s_path_is_text(done: tuple[Path, RunConfig], say: Say) -> None:
    run = done[0] / "[red]run\u200b"
    (done[0] / "run").rename(run)
    code, printed, _ = say("report", run)
    assert code == 0
    assert f"report: {done[0]}/[red]run[U+200B]/report.html" in printed


def test_log_lines_show_what_acts(caplog: pytest.LogCaptureFixture) -> None:
    record = logging.makeLogRecord({"msg": "x\u202e\x1b\n\u2028", "extra": "\u200b"})
    line = JsonLines("run\u200f").format(record)
    assert not set(line) & set("\u202e\x1b\n\u2028\u200b\u200f")
    with caplog.at_level(logging.WARNING):
        retry._repeated("s3://bucket/a\x1b[2J\nb", "x\u202e")
    assert caplog.messages == ["s3://bucket/a␛[2J␊b is tried again: x[U+202E]"]


def test_the_page_shows_what_hides(finished: tuple[Path, RunConfig]) -> None:
    results = Results.load(Store(finished[1].run))
    results.queries["q0"]["prompt"] = "a\u200b\ufeff\u2029\U000e0042"
    page = render_page({"ekfac": results})
    assert "a[U+200B][U+FEFF][U+2029][U+E0042]" in page
    assert "overflow: clip" in page


def test_the_repr_of_a_store_shows_no_secret() -> None:
    store = Store("s3://bucket/x", {"key": "AKIA", "secret": "hidden"})
    assert repr(store) == "Store(url='s3://bucket/x')"
    assert "hidden" not in repr(store / "y")


def test_an_error_says_names_of_others_as_they_show(tmp_path: Path) -> None:
    """From Python too: a notebook prints what an error says."""
    config = tiny_run(tmp_path)
    strange = tmp_path / "x\x1b[31m\u202e.jsonl"
    strange.write_text('{"body": "no text"}\n')
    corpus = CorpusConfig(documents=[str(strange)])
    with pytest.raises(CorpusError) as caught:
        rayinfluence.run(config.model_copy(update={"corpus": corpus}))
    assert "x␛[31m[U+202E].jsonl" in str(caught.value)
    assert "\x1b" not in str(caught.value)
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
