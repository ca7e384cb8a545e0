"""What the first documents tell is told before all of them are tokenised."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayinfluence.config import RunConfig
from rayinfluence.corpus import beginning
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.errors import ConfigError, CorpusError
from rayinfluence.testing import tiny_run, tiny_tokenizer

Change = Callable[..., RunConfig]


def write(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def with_more_tokens(config: RunConfig) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<image>"])
    tokenizer.save_pretrained(config.model)


def refused(config: RunConfig, quiet: ProgressLog) -> str:
    """What a run is refused with before anything is in its corpus."""
    with Run(config, quiet) as run, pytest.raises((ConfigError, CorpusError)) as error:
        run.all()
    assert not list(Path(config.run).glob("corpus/log/*"))
    return str(error.value)


def test_a_key_that_none_of_few_documents_has_is_refused_at_once(
    tmp_path: Path, quiet: ProgressLog
) -> None:
    config = tiny_run(tmp_path, scan={"group_by": ["source", "yaer"]})
    said = refused(config, quiet)
    assert (
        "none of the documents that are to be tokenised has the key 'yaer'; did you mean 'year'?"
        in said
    )


def test_a_key_that_the_first_of_many_documents_do_not_have_is_a_warning(
    tmp_path: Path, quiet: ProgressLog, said: Any, execute: Any
) -> None:
    config = tiny_run(tmp_path, 300, scan={"group_by": ["yaer"]})
    with pytest.raises(ConfigError, match=r"no document in the corpus at .* has the key 'yaer'"):
        execute(config)
    heard = said.getvalue()
    warned = "warning: scan.group_by: none of the first 100 documents that are to be tokenised"
    assert heard.index(warned) < heard.index("tokenize     done")


def test_a_key_that_later_documents_have_is_no_error(
    tmp_path: Path, said: Any, execute: Any, change: Change
) -> None:
    config = tiny_run(tmp_path, 12, scan={"group_by": ["license"]})
    rows = [{"text": f"w{i % 40} w2"} for i in range(150)] + [{"text": "w1 w2", "license": "MIT"}]
    write(tmp_path / "documents.jsonl", *rows)
    execute(config)
    assert (
        "none of the first 100 documents that are to be tokenised has the key 'license'"
        in said.getvalue()
    )
    # What is in the corpus already is not told again, and not taken for all that there is.
    more = write(tmp_path / "more.jsonl", {"text": "w1 w2 w3"})
    both = [*config.corpus.documents, more]
    execute(change(config, corpus={"documents": both}), new_run=True)
    assert "none of the documents that are to be tokenised has the key 'license'" in said.getvalue()


def test_a_column_of_names_that_no_document_has_is_told(
    tmp_path: Path, said: Any, quiet: ProgressLog, change: Change
) -> None:
    for column, told in (("id", False), ("year", False), ("yeer", True)):
        config = tiny_run(tmp_path / column, 9)
        config = change(config, corpus={"id_column": column})
        with Run(config, quiet) as run:
            run.tokenize()
        assert (f"has '{column}', so that file and line name them" in said.getvalue()) == told
    assert "so that file and line name them; did you mean 'year'?" in said.getvalue()


def test_parquet_is_begun_as_lines_are(
    tmp_path: Path, quiet: ProgressLog, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_run(tmp_path, scan={"group_by": ["yaer"]})
    file = tmp_path / "documents.parquet"
    pq.write_table(pa.table({"text": ["w1 w2"] * 9, "year": range(9)}), file)
    config = change(config, corpus={"documents": [str(file)]})
    assert "did you mean 'year'" in refused(config, quiet)
    # A large one is left to those that tokenise it.
    monkeypatch.setattr(beginning, "_LARGE", 10)
    with Run(config, quiet) as run:
        run.tokenize()


def test_tokens_that_the_model_lacks_are_told_before_all_are_tokenised(
    tmp_path: Path, quiet: ProgressLog, said: Any, execute: Any
) -> None:
    config = tiny_run(tmp_path)
    with_more_tokens(config)
    rows = [{"id": f"d{i}", "text": f"w{i % 40} <image> w2"} for i in range(300)]
    write(tmp_path / "documents.jsonl", *rows[:50])
    assert (
        "50 of 50 sequences of the documents that are to be tokenised have tokens outside the "
        "model's vocabulary of 48, such as 48 ('<image>') in document 'd0'. Name the tokenizer"
    ) in refused(config, quiet)
    write(tmp_path / "documents.jsonl", *rows)
    with pytest.raises(CorpusError, match="300 of 300 sequences cannot be used"):
        execute(config)
    heard = said.getvalue()
    assert heard.index("100 of 100 sequences of the first 100 documents") < heard.index(
        "tokenize     done"
    )


def test_few_sequences_that_the_model_cannot_take_are_not_foretold(
    tmp_path: Path, said: Any, execute: Any
) -> None:
    config = tiny_run(tmp_path)
    with_more_tokens(config)
    rows = [{"text": f"w{i % 40} w1 w2"} for i in range(100)] + [{"text": "w1 <image>"}]
    write(tmp_path / "documents.jsonl", *rows)
    assert len(execute(config)["ekfac"].manifest["corpus"]["bad_sequences"]) == 1
    assert "<image>" not in said.getvalue()


def test_a_file_without_the_text_is_refused_before_any_is_tokenised(
    tmp_path: Path, quiet: ProgressLog, change: Change
) -> None:
    """The last one is looked at too."""
    other = write(tmp_path / "z.jsonl", *[{"body": "w1 w2"}] * 3)
    config = tiny_run(tmp_path)
    config = change(config, corpus={"documents": [*config.corpus.documents, other]})
    assert "z.jsonl has no key 'text' in any row; there are body" in refused(config, quiet)
