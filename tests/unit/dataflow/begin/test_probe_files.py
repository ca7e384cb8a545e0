"""Files of probes: one shape, and anything else is refused in a sentence, without torch."""

import subprocess
import sys
from pathlib import Path

import pytest

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.begin.probes import Probe, read_probes
from rayinfluence.errors import ConfigError, InputError

CONFIG = RunConfig.parse({"run": "r", "model": "m"})


def test_texts_are_by_partition_and_queries_may_be_named(tmp_path: Path) -> None:
    path = tmp_path / "variants.yaml"
    body = (
        'queries: fact\npartitions:\n  "as it is":\n    - A is B.\n    - "C: D"\n  no: &x [E F]\n'
    )
    path.write_text(body.replace("no:", '"no":') + "  again: *x\n")
    probes, queries = read_probes(str(path), CONFIG)
    assert probes == [
        Probe("as it is 1", "A is B.", "as it is"),
        Probe("as it is 2", "C: D", "as it is"),
        Probe("no 1", "E F", "no"),
        Probe("again 1", "E F", "again"),
    ]
    assert queries == ["fact"]
    path.write_text("\ufeffqueries: [a, b]\npartitions: {p: [x y]}\n")
    assert read_probes(str(path), CONFIG)[1] == ["a", "b"]
    path.write_text("partitions: {p: [x y]}\n")
    assert read_probes(str(path), CONFIG)[1] == []


def test_a_text_may_be_a_completion_after_its_prompt(tmp_path: Path) -> None:
    path = tmp_path / "variants.yaml"
    path.write_text("partitions: {p: [{prompt: A is, completion: ' B.'}, A is B.]}\n")
    probes, _ = read_probes(str(path), CONFIG)
    assert probes == [Probe("p 1", "A is B.", "p", 4), Probe("p 2", "A is B.", "p")]
    path.write_text("partitions: {p: [{completion: A, prompt: ''}]}\n")
    assert read_probes(str(path), CONFIG)[0] == [Probe("p 1", "A", "p", 0)]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "it has no `partitions`"),
        (b"- one\n- two\n", "it has no `partitions`"),
        (b"run: r\nmodel: m\n", "it has no `partitions`"),
        (b"partitions: [a b]", "no names with lists of texts"),
        (b"partitions: {}", "no names with lists of texts"),
        (b"partitions:\n  p: a b\n", "'p': a list of one or more texts is asked for, not 'a b'"),
        (b"partitions:\n  p:\n", "'p': a list of one or more texts is asked for, not nothing"),
        (
            b"partitions:\n  p: []\n",
            "'p': a list of one or more texts is asked for, and it is empty.",
        ),
        (b"partitions:\n  p: [{a: b}]\n", "'p 1' is a mapping, .* prompt and completion; this has"),
        (
            b"partitions:\n  p: [{prompt: a, completion: 1}]\n",
            "'p 1' is 1, which YAML reads as int",
        ),
        (b"partitions:\n  p: [{prompt: [a], completion: b}]\n", "'p 1' is a list, and no text"),
        (b"partitions:\n  p: [{prompt: a, completion: ' '}]\n", "'p 1' is empty"),
        (b"partitions:\n  p: [a b, yes]\n", "'p 2' is True, which YAML reads as bool"),
        (b"partitions:\n  p: [2024-01-01]\n", "'p 1' is .* which YAML reads as date"),
        (b"partitions:\n  p: [!!binary aGk=]\n", "'p 1' is .* which YAML reads as bytes"),
        (b"partitions:\n  p: [!!python/name:os.system ]\n", "cannot be read as YAML: could not"),
        (b"partitions:\n  no: [a b]\n", "the name of a partition is False, which YAML reads"),
        (b"partitions:\n  ' ': [a b]\n", "the name of a partition is ' '; put it in quotes"),
        (b"partitions:\n  p: ['']\n", "'p 1' is empty"),
        (b'partitions:\n  p: ["\\uD800"]\n', r"'p 1' is no text: it has \\ud800, half"),
        (b"partitions:\n  p: [a b]\nquery: q\n", "it has the key 'query', which means nothing"),
        (b"partitions:\n  p: [a b]\nqueries: 7\n", "its `queries` is 7, which YAML reads as int"),
        (b"partitions:\n  p: [a b]\n  p: [c d]\n", "'p' stands in line 2 and again in line 3"),
        (b"partitions: {p: [a b]", "cannot be read as YAML"),
        (b"\xff\xfea\0", "cannot be read as YAML"),
        (b"[" * 1000, "cannot be read as YAML"),
        (b"partitions:\n  p: ['\x1b[2J']\n", "cannot be read as YAML"),
    ],
)
def test_another_shape_is_refused_with_where_and_what(
    tmp_path: Path, body: bytes, said: str
) -> None:
    path = tmp_path / "variants.yaml"
    path.write_bytes(body)
    with pytest.raises(InputError, match=said) as refused:
        read_probes(str(path), CONFIG)
    assert str(refused.value).startswith(str(path))


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--file: there is no file .*nothing.yaml"):
        read_probes(str(tmp_path / "nothing.yaml"), CONFIG)
    with pytest.raises(ConfigError, match="is a folder; name the file"):
        read_probes(str(tmp_path), CONFIG)
    with pytest.raises(ConfigError, match="--file: "):
        read_probes("ftp://host/file.yaml", CONFIG)


def test_torch_is_not_needed_to_refuse(tmp_path: Path) -> None:
    (tmp_path / "variants.yaml").write_text("partitions: 7")
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from rayinfluence.config import RunConfig\n"
        "from rayinfluence.dataflow.begin.probes import read_probes\n"
        "from rayinfluence.errors import InputError\n"
        "try: read_probes(sys.argv[1], RunConfig.parse({'run': 'r', 'model': 'm'}))\n"
        "except InputError as error: print(error)\n"
    )
    path = str(tmp_path / "variants.yaml")
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True)
    assert "no names with lists of texts" in done.stdout, done.stderr
