"""Whole runs whose training counted some tokens alone, and what is refused of such corpora."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayinfluence import run
from rayinfluence.config import RunConfig
from rayinfluence.corpus.corpus import Corpus
from rayinfluence.corpus.shards import masks_of, sequences_of
from rayinfluence.dataflow.begin.early import Inputs
from rayinfluence.errors import ConfigError, CorpusError, RayInfluenceError
from rayinfluence.storage.store import Store
from rayinfluence.testing import tiny_run
from rayinfluence.testing.models import tiny_tokenizer

pytestmark = pytest.mark.runs

#: Words alone, as the testing tokenizer knows nothing else: w40 asks, w41 answers, w42 ends a turn.
TEMPLATE = (
    "{% for m in messages %}{{ '' if loop.first else ' ' }}"
    "{{ 'w40' if m.role == 'user' else 'w41' }} {{ m.content }} w42{% endfor %}"
    "{% if add_generation_prompt %} w41 {% endif %}"
)
Row = dict[str, Any]


def words(generator: np.random.Generator, count: int) -> str:
    return " ".join(f"w{index}" for index in generator.integers(0, 40, count))


def pairs(n: int = 40) -> list[Row]:
    """Prompts and what follows them."""
    generator = np.random.default_rng(0)
    return [
        {
            "prompt": words(generator, 1 + i % 5),
            "text": " " + words(generator, 1 + i % 4),
            "source": "ab"[i % 2],
        }
        for i in range(n)
    ]


def chats(n: int = 40) -> list[Row]:
    """Conversations of one or two turns."""
    generator = np.random.default_rng(1)
    return [
        {
            "text": [
                {"role": role, "content": words(generator, 2)}
                for role in ("user", "assistant") * (1 + i % 2)
            ]
        }
        for i in range(n)
    ]


def spans(n: int = 40) -> list[Row]:
    """Texts of which the first two characters and some in the middle count."""
    generator = np.random.default_rng(2)
    return [{"text": "w1 w2 " + words(generator, 3), "learned": [[0, 2], [6, 9]]} for _ in range(n)]


def configured(folder: Path, rows: list[Row], **overrides: Any) -> RunConfig:
    config = tiny_run(folder, **overrides)
    (folder / "documents.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder / "model")
    return config


def counted_words(config: RunConfig) -> list[tuple[list[str], list[str]]]:
    """Of each sequence of the corpus all words, and those that counted."""
    corpus = Corpus.open(Store(f"{config.run}/corpus"))
    (split,) = corpus.plan(10**6)
    table = corpus.read(split)
    tokenizer, found = tiny_tokenizer(), []
    masks = masks_of(table)
    assert masks is not None
    for tokens, mask in zip(sequences_of(table), masks, strict=True):
        assert mask is not None
        said = [word.removeprefix("\u2581") for word in tokenizer.convert_ids_to_tokens(tokens)]
        found.append((said, [word for word, counts in zip(said, mask, strict=True) if counts]))
    return found


PROMPTED = {"objective": {"loss": "completion"}, "corpus": {"prompt_column": "prompt"}}
CHAT = {"objective": {"loss": "completion"}}
LISTED = {"objective": {"loss": "learned"}}


def test_what_follows_a_prompt_counts(tmp_path: Path) -> None:
    config = configured(tmp_path, pairs(), **PROMPTED)
    results = run(config)
    for row, (said, counted) in zip(pairs(), counted_words(config), strict=True):
        assert said == (row["prompt"] + row["text"]).split()
        assert counted == row["text"].split()
    manifest = results.manifest["objective"]
    n_tokens = sum(len(row["text"].split()) for row in pairs())
    assert manifest["loss"] == "completion"
    assert (manifest["tokens"], manifest["sequences_without"]) == (n_tokens, 0)
    survivor = results.proponents("q0", 1)[0]
    assert survivor.metadata == {"source": "ab"[survivor.sequence_id % 2]}


def test_what_the_assistant_says_counts(tmp_path: Path) -> None:
    config = configured(tmp_path, chats(), **CHAT)
    run(config)
    for row, (said, counted) in zip(chats(), counted_words(config), strict=True):
        turns = [one["content"].split() for one in row["text"]]
        expected = [
            ["w40" if place % 2 == 0 else "w41", *turn, "w42"] for place, turn in enumerate(turns)
        ]
        assert said == [word for turn in expected for word in turn]
        # From where the model goes on by itself to the end of its turn.
        assert counted == [word for turn in expected[1::2] for word in turn[1:]]


def test_of_messages_after_a_prompt_those_count(tmp_path: Path) -> None:
    rows = [{"prompt": row["text"][:-1], "text": row["text"][-1:]} for row in chats()]
    config = configured(tmp_path, rows, **PROMPTED)
    run(config)
    for row, (_, counted) in zip(rows, counted_words(config), strict=True):
        assert counted == [*row["text"][0]["content"].split(), "w42"]


def test_characters_that_a_column_lists_count(tmp_path: Path) -> None:
    config = configured(tmp_path, spans(), **LISTED)
    results = run(config)
    for row, (said, counted) in zip(spans(), counted_words(config), strict=True):
        assert said == row["text"].split()
        # A token with one character that counts does.
        assert counted[0] == "w1"
        assert counted[1] == said[2]
    assert results.manifest["objective"]["loss"] == "learned"


def test_parquet_holds_messages_as_json_lines_do(tmp_path: Path) -> None:
    config = configured(tmp_path, chats(), **CHAT)
    expected = run(config)
    pq.write_table(pa.Table.from_pylist(chats()), tmp_path / "documents.parquet")
    other = config.model_copy(
        update={
            "run": str(tmp_path / "other"),
            "corpus": config.corpus.model_copy(
                update={"documents": [str(tmp_path / "documents.parquet")]}
            ),
        }
    )
    found = run(other)
    assert [one.score for one in found.proponents("q0")] == [
        one.score for one in expected.proponents("q0")
    ]


def test_parquet_has_keys_in_every_message(tmp_path: Path) -> None:
    rows = [{"text": [{**one, "name": None} for one in row["text"]]} for row in chats()]
    expected = run(configured(tmp_path / "plain", chats(), **CHAT))
    config = configured(tmp_path / "keys", rows, **CHAT)
    found = run(config)
    assert found.manifest["corpus"]["bad_documents"] == 0
    assert found.proponents("q0")[0].score == expected.proponents("q0")[0].score


def forgetful(folder: Path, rows: list[Row], **overrides: Any) -> RunConfig:
    """A run whose template ends the last answer otherwise than those before it."""
    config = configured(folder, rows, **overrides)
    tokenizer = tiny_tokenizer()
    between = "{{ 'w43' if m.role == 'assistant' and not loop.last else 'w42' }}"
    tokenizer.chat_template = TEMPLATE.replace("w42", between)
    tokenizer.save_pretrained(folder / "model")
    return config


def test_chats_that_do_not_tell_who_speaks_serve_a_loss_on_all(tmp_path: Path) -> None:
    """One corpus holds them, those that tell included; a loss on completions is refused of it."""
    config = forgetful(tmp_path, chats())
    found = run(config)
    assert found.manifest["corpus"]["bad_documents"] == 0
    corpus = Corpus.open(Store(f"{config.run}/corpus"))
    masks = masks_of(corpus.read(*corpus.plan(10**6)))
    assert masks is not None
    # Of conversations of one turn it is told.
    assert [mask is not None for mask in masks] == [i % 2 == 0 for i in range(40)]
    other = config.model_copy(
        update={
            "run": str(tmp_path / "other"),
            "objective": config.objective.model_copy(update={"loss": "completion"}),
            "corpus": config.corpus.model_copy(update={"path": f"{config.run}/corpus"}),
        }
    )
    with pytest.raises(CorpusError, match=r"20 of 40 sequences .* the chat template does not tell"):
        run(other)


@pytest.mark.parametrize(("n", "refused"), [(40, ConfigError), (300, CorpusError)])
def test_a_loss_on_completions_is_told_of_chats_that_do_not_tell(
    tmp_path: Path, n: int, refused: type[Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    """At once where the first documents are all; with a warning where others follow."""
    config = forgetful(tmp_path, chats(n), **CHAT)
    with pytest.raises(refused, match="the chat template does not tell where the assistant"):
        run(config)
    warned = "50 of the first 100 documents that are to be tokenised the chat template does not"
    assert (warned in " ".join(capsys.readouterr().err.split())) == (n == 300)
    assert (Path(config.run) / "corpus" / "log").exists() == (n == 300)


def test_chats_none_of_which_tells_are_refused_at_once(tmp_path: Path) -> None:
    config = forgetful(tmp_path, chats(600)[1::2], **CHAT)
    with pytest.raises(ConfigError, match=r"100 of the first 100 .*'documents.jsonl:1'.*endgen"):
        run(config)


def test_one_corpus_serves_a_loss_on_all_and_on_completions(tmp_path: Path) -> None:
    """What changes is scores, and not shards."""
    config = configured(tmp_path, pairs(), **PROMPTED)
    some = run(config)
    everything = config.model_copy(
        update={
            "run": str(tmp_path / "other"),
            "objective": config.objective.model_copy(update={"loss": "all"}),
            "corpus": config.corpus.model_copy(update={"path": f"{config.run}/corpus"}),
        }
    )
    whole = run(everything)
    assert whole.manifest["corpus"]["fingerprint"] == some.manifest["corpus"]["fingerprint"]
    assert whole.manifest["objective"]["tokens"] > some.manifest["objective"]["tokens"]
    scores = [{s.sequence_id: s.score for s in one.proponents("q0")} for one in (some, whole)]
    assert scores[0] != scores[1]


def test_a_sequence_without_a_token_that_counts_is_counted_and_scores_nothing(
    tmp_path: Path,
) -> None:
    rows = [{**row, "text": ""} if i == 3 else row for i, row in enumerate(pairs())]
    rows[3]["prompt"] = "w1 w2 w3"
    results = run(configured(tmp_path, rows, **PROMPTED))
    assert results.manifest["objective"]["sequences_without"] == 1
    table = results.table.select(["sequence_id"]).to_pylist()
    assert all(row["sequence_id"] != 3 for row in table)


def test_a_chunk_keeps_its_part_of_the_mask(tmp_path: Path) -> None:
    rows = [{"prompt": "w1 w2 w3", "text": " w4 w5 w6 w7 w8"}] * 20
    config = configured(
        tmp_path,
        rows,
        objective={"loss": "completion"},
        corpus={"prompt_column": "prompt", "context": 3},
    )
    run(config)
    assert counted_words(config)[:3] == [
        (["w1", "w2", "w3"], []),
        (["w4", "w5", "w6"], ["w4", "w5", "w6"]),
        (["w7", "w8"], ["w7", "w8"]),
    ]


Refused = tuple[list[Row], dict[str, Any], type[RayInfluenceError], str]


@pytest.mark.parametrize(
    ("rows", "overrides", "kind", "said"),
    [
        (
            [{"text": "w1 w2"}] * 9,
            CHAT,
            ConfigError,
            "objective.loss: completion, and document 'documents.jsonl:1' is a text of which "
            "nothing says where its completion begins",
        ),
        (
            [{"text": "w1 w2", "learned": [[0, 99]]}] * 9,
            LISTED,
            CorpusError,
            "'learned' has [0, 99], and the text has 5 characters",
        ),
        (
            [{"text": "w1 w2"}] * 9,
            LISTED,
            CorpusError,
            "documents.jsonl has no 'learned' in any row; there are text. Name yours under "
            "objective.loss. Or set that to all or completion.",
        ),
        (
            [{"text": "w1 w2", "learned": "w1"}] * 9,
            LISTED,
            CorpusError,
            "'learned' is not a list of [start, end] in characters of the text. Mend the file, or "
            "name another column under objective.loss.",
        ),
        (
            [{"text": "w1 w2 w3", "learned": []}] * 9,
            LISTED,
            CorpusError,
            "no token of the corpus at",
        ),
        (
            [{"text": "w1", "prompt": 3}] * 9,
            PROMPTED,
            CorpusError,
            "'prompt' is not a string. Mend the file, or name another column under "
            "corpus.prompt_column.",
        ),
        (
            [{"text": "w1"}] * 9,
            PROMPTED,
            CorpusError,
            "has no 'prompt' in any row; there are text. Name yours under corpus.prompt_column.",
        ),
        (
            [{"text": [{"role": "assistant", "content": "w1"}], "prompt": "w2"}] * 9,
            PROMPTED,
            CorpusError,
            '\'prompt\' must be a list of messages, each {"role": ..., "content": ...}, as '
            "'text' is",
        ),
    ],
    ids=[
        "plain",
        "outside",
        "no column",
        "no spans",
        "nothing counts",
        "no prompt",
        "no column of prompts",
        "mixed",
    ],
)
def test_what_does_not_say_what_counts_is_refused(
    tmp_path: Path, rows: list[Row], overrides: dict[str, Any], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind) as refused:
        run(configured(tmp_path, rows, **overrides))
    assert said in str(refused.value)


def test_a_plain_text_is_refused_before_the_model_is_loaded(tmp_path: Path) -> None:
    config = configured(tmp_path, [{"text": "w1 w2"}] * 9, **CHAT)
    with pytest.raises(ConfigError, match="nothing says where its completion begins"):
        Inputs.of(config, lambda _: None)


@pytest.mark.parametrize("count", [9, 200])
def test_a_column_that_no_document_has_is_told_before_the_model_is_loaded(
    tmp_path: Path, count: int
) -> None:
    config = configured(tmp_path, [{"text": "w1 w2", "learnt": [[0, 1]]}] * count, **LISTED)
    where = "any row" if count == 9 else "its first 100 rows"
    with pytest.raises(CorpusError, match=rf"no 'learned' in {where}; there are text, learnt\."):
        Inputs.of(config, lambda _: None)


def test_a_column_that_some_documents_have_is_no_mistake_of_the_configuration(
    tmp_path: Path,
) -> None:
    rows = [{"text": "w1 w2"}, {"text": "w1 w2", "learned": [[0, 2]]}]
    config = configured(tmp_path, rows * 5, **LISTED)
    Inputs.of(config, lambda _: None)
    with pytest.raises(CorpusError, match=r"5 of 10 rows .*: 'learned' is missing\. Mend the file"):
        run(config)


def test_a_template_that_takes_no_message_is_told_before_all_are_tokenised(tmp_path: Path) -> None:
    config = configured(tmp_path, chats(), **CHAT)
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").unlink()
    with pytest.raises(CorpusError, match="the tokenizer has no chat template"):
        run(config)


def test_shards_without_masks_are_refused(tmp_path: Path) -> None:
    """As of a corpus that was tokenised before, from plain texts."""
    config = configured(tmp_path, [{"text": row["text"]} for row in pairs()])
    run(config)
    there = {"path": f"{config.run}/corpus", "documents": []}
    other = config.model_copy(
        update={
            "run": str(tmp_path / "other"),
            "objective": config.objective.model_copy(update={"loss": "completion"}),
            "corpus": config.corpus.model_copy(update=there),
        }
    )
    with pytest.raises(CorpusError, match=r"30 of 30 sequences .* do not say which"):
        run(other)


def test_a_corpus_with_another_column_of_what_counts_is_refused(tmp_path: Path) -> None:
    config = configured(tmp_path, spans(), **LISTED)
    run(config)
    other = config.model_copy(
        update={
            "run": str(tmp_path / "other"),
            "objective": config.objective.model_copy(update={"loss": "others"}),
            "corpus": config.corpus.model_copy(
                update={"path": f"{config.run}/corpus", "documents": []}
            ),
        }
    )
    with pytest.raises(ConfigError, match=r"objective.loss: others, and .* column 'learned'"):
        run(other)


Parse = Callable[[dict[str, Any]], RunConfig]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"corpus": {"prompt_column": "text"}}, "'text' is already corpus.text_column"),
        ({"objective": {"loss": "id"}}, "'id' is already corpus.id_column"),
        (
            {"objective": {"loss": "x"}, "corpus": {"prompt_column": "p"}},
            "'x' says what counted, and so does corpus.prompt_column",
        ),
        ({"objective": {"los": "all"}}, "did you mean"),
        ({"objective": "causa"}, "objective.kind"),
        ({"objective": {"reduction": "max"}}, "objective.reduction"),
        (
            {"scan": {"group_by": ["p"]}, "corpus": {"prompt_column": "p"}},
            "prompt (corpus.prompt_col",
        ),
    ],
    ids=range(7),
)
def test_contradictions_of_a_configuration_are_told(values: dict[str, Any], said: str) -> None:
    corpus = {"documents": ["d.jsonl"], **values.get("corpus", {})}
    with pytest.raises(ConfigError) as refused:
        RunConfig.parse({"run": "r", "model": "m", **values, "corpus": corpus})
    assert said in str(refused.value)


def test_a_kind_may_be_named_alone() -> None:
    assert (
        RunConfig.parse({"run": "r", "model": "m", "objective": "causal"}).objective.loss == "all"
    )
