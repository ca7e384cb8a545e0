"""The demo's prose, facts, documents and model cache; no training of more than a few steps."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
import torch
import transformers
from rich.console import Console

from rayinfluence.demo import tiny_lm
from rayinfluence.demo.corpus import LONGEST_WINDOW, DemoCorpus, windows, write_corpus
from rayinfluence.demo.facts import (
    FEWEST_COPIES,
    HELD_OUT_TEMPLATE,
    MOST_COPIES,
    TEMPLATES,
    TRAINED_TEMPLATES,
    invent_facts,
)
from rayinfluence.demo.prose import Passage, clean, read_prose, read_topics
from rayinfluence.demo.tiny_lm import ensure_model
from rayinfluence.errors import CorpusError
from rayinfluence.evaluation.new_model import ModelSettings
from rayinfluence.evaluation.training import TrainingSettings

MODEL = ModelSettings(vocabulary=300, context=48, width=8, layers=1, heads=2)
TRAINING = TrainingSettings(epochs=1, batch=4, threads=1)
DOCUMENTS = [f"The number {n} is followed by the number {n + 1}." for n in range(8)]


def passages(count: int = 300) -> list[Passage]:
    return [
        Passage(
            f"module_{n}:function",
            f"This function returns item {n} of the list when the list has it. Otherwise it "
            f"returns nothing at all, and the caller of number {n} has to look somewhere else.",
        )
        for n in range(count)
    ]


@pytest.fixture
def corpus(tmp_path: Path) -> DemoCorpus:
    return write_corpus(
        tmp_path / "corpus",
        passages=passages(),
        subjects=8,
        plain_documents=50,
        queried_facts=12,
    )


@pytest.fixture
def library(tmp_path: Path) -> Path:
    folder = tmp_path / "library"
    (folder / "pydoc_data").mkdir(parents=True)
    (folder / "site-packages").mkdir()
    sentence = "This sentence is long enough to be kept as a paragraph of prose."
    topics = {"with": sentence, "if": f'{sentence}\n\n   if_stmt ::= "if" expression'}
    (folder / "pydoc_data" / "topics.py").write_text(f"topics = {topics!r}\n")
    (folder / "good.py").write_text(
        f'"""{sentence}"""\nimport no_such_module\n'
        f'class Reader:\n    def read(self):\n        """{sentence}"""\n'
    )
    (folder / "broken.py").write_text("def (:\n")
    (folder / "binary.py").write_bytes(b"\x00\xff")
    (folder / "site-packages" / "other.py").write_text(f'"""{sentence}"""\n')
    return folder


def test_prose_names_its_sources(library: Path) -> None:
    assert {passage.source for passage in read_prose(library)} == {
        "pydoc_data.topics:if",
        "pydoc_data.topics:with",
        "good",
        "good:Reader.read",
    }
    assert all("::=" not in passage.text for passage in read_prose(library))


def test_prose_without_topics_is_docstrings(library: Path) -> None:
    (library / "pydoc_data" / "topics.py").unlink()
    assert list(read_topics(library)) == []
    assert {passage.source for passage in read_prose(library)} == {"good", "good:Reader.read"}


def test_prose_of_this_python_is_read_without_importing_it() -> None:
    before = set(sys.modules)
    prose = read_prose(characters=60_000)
    assert set(sys.modules) == before
    assert 60_000 <= sum(len(passage.text) for passage in prose) < 120_000
    assert prose == read_prose(characters=60_000)


def test_cleaning_keeps_only_prose() -> None:
    kept = "The first line of a paragraph\n    goes on with the second line."
    dropped = [
        ">>> add(1, 2)\n3",
        ".. note:: this directive is not prose although it has words.",
        "====  ====\na     b\n====  ====",
        ":param name: the name of the thing that has to be named here.",
        "x = y[0] + z{1} * (2 ** 3) - w['a']; t = (1, 2, 3, 4, 5, 6).",
    ]
    assert clean("\n\n".join([kept, *dropped])) == " ".join(kept.split())


def test_windows_are_whole_sentences_of_limited_length() -> None:
    text = " ".join(f"Sentence number {n} says very little indeed." for n in range(40))
    found = list(windows(Passage("a:b", text)))
    assert len(found) > 5
    assert all(len(" ".join(window)) <= LONGEST_WINDOW for window in found)
    assert " ".join(sentence for window in found for sentence in window) in text


def test_names_are_new_and_not_in_the_prose() -> None:
    first = invent_facts(20, seed=3)
    prose = " ".join(fact.object.upper() for fact in first[:30])
    facts = invent_facts(20, seed=3, prose=prose)
    names = {fact.object for fact in facts} | {fact.subject for fact in facts}
    assert len(names) == 60 + 20
    assert not any(name.casefold() in prose.casefold() for name in names)
    assert invent_facts(20, seed=3) == first != invent_facts(20, seed=4)


def test_each_subject_has_one_fact_of_each_relation() -> None:
    facts = invent_facts(5, seed=0)
    pairs = {(fact.subject, fact.relation) for fact in facts}
    assert len(facts) == len(pairs) == 5 * len(TEMPLATES)
    assert all(FEWEST_COPIES <= fact.copies <= MOST_COPIES for fact in facts)


def test_facts_are_planted_as_often_as_they_say(corpus: DemoCorpus) -> None:
    planted = corpus.planted()
    texts = {document.document_id: document.text for document in corpus.documents}
    for fact in corpus.facts:
        assert len(planted[fact.fact_id]) == fact.copies
        said = [[fact.sentence(t) in texts[name] for t in TRAINED_TEMPLATES] for name in texts]
        assert {name for name, row in zip(texts, said, strict=True) if any(row)} == planted[
            fact.fact_id
        ]
        uses = [sum(row[t] for row in said) for t in TRAINED_TEMPLATES]
        assert max(uses) - min(uses) <= 1


def test_planted_sentences_stand_in_prose_that_no_other_document_has(corpus: DemoCorpus) -> None:
    facts = {fact.fact_id: fact for fact in corpus.facts}
    prose = []
    for document in corpus.documents:
        text = document.text
        if document.fact_id is not None:
            for template in TRAINED_TEMPLATES:
                text = text.replace(facts[document.fact_id].sentence(template), "")
        prose.append(" ".join(text.split()))
    assert len(set(prose)) == len(prose)
    assert min(map(len, prose)) > 80


def test_the_held_out_template_is_never_planted(corpus: DemoCorpus) -> None:
    everything = corpus.documents_path.read_text(encoding="utf-8")
    for fact in corpus.facts:
        assert fact.prompt(HELD_OUT_TEMPLATE) not in everything
    for templates in TEMPLATES.values():
        assert templates[HELD_OUT_TEMPLATE].split("{subject}")[0] not in everything


def test_rows_and_queries_read_back(corpus: DemoCorpus) -> None:
    rows = [json.loads(line) for line in corpus.documents_path.read_text().splitlines()]
    assert len({row["id"] for row in rows}) == len(rows) == len(corpus.documents)
    assert all(("fact_id" in row) == (row["source"] == "planted") for row in rows)
    queries = [json.loads(line) for line in corpus.queries_path.read_text().splitlines()]
    assert len({query["query_id"] for query in queries}) == len(queries) == 24
    assert all(query["completion"].startswith(" ") for query in queries)
    assert not any(query["prompt"].endswith(" ") for query in queries)
    held_out = [query for query in queries if query["metadata"]["template"] == "held-out"]
    assert len(held_out) == 12


def test_the_seed_decides_every_byte(tmp_path: Path) -> None:
    def written(name: str, seed: int) -> list[bytes]:
        corpus = write_corpus(
            tmp_path / name,
            seed,
            passages=passages(),
            subjects=4,
            plain_documents=20,
            queried_facts=6,
        )
        return [corpus.documents_path.read_bytes(), corpus.queries_path.read_bytes()]

    assert written("a", 0) == written("b", 0)
    assert written("a", 0)[0] != written("c", 1)[0]


def test_too_little_prose_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="found only 5"):
        write_corpus(tmp_path, passages=passages(5), subjects=4)


def test_a_model_is_trained_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ensure_model(tmp_path, DOCUMENTS, model=MODEL, training=TRAINING)
    assert first.trained
    assert (tmp_path / "model.safetensors").is_file()
    calls = []
    train = tiny_lm.train_shown
    monkeypatch.setattr(tiny_lm, "train_shown", lambda *args: calls.append(1) or train(*args))
    second = ensure_model(tmp_path, DOCUMENTS, model=MODEL, training=TRAINING)
    assert not second.trained
    assert not calls
    assert (second.digest, second.loss) == (first.digest, first.loss)
    changed = [*DOCUMENTS[:-1], "Another document."]
    third = ensure_model(tmp_path, changed, model=MODEL, training=TRAINING)
    assert third.trained
    assert third.digest != first.digest
    assert ensure_model(tmp_path, changed, 1, model=MODEL, training=TRAINING).trained
    assert len(calls) == 2


def test_equal_seeds_train_equal_weights_and_leave_the_random_state_alone(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    for name in ("a", "b"):
        ensure_model(tmp_path / name, DOCUMENTS, model=MODEL, training=TRAINING)
    assert torch.equal(before, torch.random.get_rng_state())
    for file in ("model.safetensors", "tokenizer.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.parametrize("moment", ["train", "save"])
def test_an_interrupted_training_never_looks_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    def interrupted(*_: object) -> float:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        if moment == "train":
            patched.setattr(tiny_lm, "train_shown", interrupted)
        else:
            patched.setattr(tiny_lm.PreTrainedTokenizerFast, "save_pretrained", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ensure_model(tmp_path, DOCUMENTS, model=MODEL, training=TRAINING)
    assert not (tmp_path / tiny_lm.RECORD).exists()
    assert ensure_model(tmp_path, DOCUMENTS, model=MODEL, training=TRAINING).trained


def test_a_damaged_record_means_training_again(tmp_path: Path) -> None:
    ensure_model(tmp_path, DOCUMENTS, model=MODEL, training=TRAINING)
    (tmp_path / tiny_lm.RECORD).write_text('{"digest": ')
    assert ensure_model(tmp_path, DOCUMENTS, model=MODEL, training=TRAINING).trained


def test_the_saved_tokenizer_adds_nothing(tmp_path: Path) -> None:
    ensure_model(tmp_path, DOCUMENTS, model=MODEL, training=TRAINING)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = "The number 3 — naïve:  two spaces."
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode("The") + tokenizer.encode(" number") == tokenizer.encode("The number")
    assert tokenizer.model_max_length == MODEL.context
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.config.n_positions == MODEL.context
    assert model.config.vocab_size >= len(tokenizer)


def test_a_document_beyond_the_context_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"Document number 8 has .* reads 48"):
        ensure_model(tmp_path, [*DOCUMENTS, "word " * 100], model=MODEL, training=TRAINING)
    with pytest.raises(CorpusError, match="no documents"):
        ensure_model(tmp_path, [], model=MODEL, training=TRAINING)


def test_without_a_terminal_progress_is_a_few_plain_lines(tmp_path: Path) -> None:
    output = io.StringIO()
    console = Console(file=output, width=60)
    ensure_model(tmp_path, DOCUMENTS, model=MODEL, training=TRAINING, console=console)
    lines = output.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[-1].startswith("training: step 2 of 2, loss")
    assert "tokens/s" in lines[-1]
