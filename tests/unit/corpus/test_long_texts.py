"""Long texts in pieces have the tokens, characters and masks of the text as a whole."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer, UnigramTrainer, WordPieceTrainer
from transformers import PreTrainedTokenizerFast

from rayinfluence.corpus import long_texts
from rayinfluence.corpus.long_texts import encoded_in_pieces
from rayinfluence.corpus.tokenize import TokenizeSettings, tokenize_file
from rayinfluence.corpus.tokenizer import encode
from rayinfluence.objective_kinds import CAUSAL, MASKED
from rayinfluence.storage.store import Store

SENTENCES = [
    "the cat sat on the mat, and didn't move;   naïve 😀😀 people  say so.\n\n",
    "中文字符在这里没有空格也要切开。",
    "    def f(x):\n\treturn x ** 12345\n",
    "e\u0301te\u0301 \u00c5ngstro\u0308m \r\n \u2003 tail\u200b",
    "<s>special</s> <mask> ",
]


def text_of(seed: int, n_characters: int) -> str:
    rng = np.random.default_rng(seed)
    found = ""
    while len(found) < n_characters:
        found += SENTENCES[rng.integers(len(SENTENCES))][: rng.integers(1, 80)]
    return found


def byte_level(backend: Tokenizer) -> None:
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.ByteLevel(trim_offsets=True)


def with_prefix(backend: Tokenizer) -> None:
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)


def llama3(backend: Tokenizer) -> None:
    pattern = r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    pattern += r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def metaspace(backend: Tokenizer) -> None:
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Metaspace()


def one_word(backend: Tokenizer) -> None:
    """As Llama 2, which makes no words."""
    backend.normalizer = normalizers.Replace(" ", "▁")


def bert(backend: Tokenizer) -> None:
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()


def fixed(backend: Tokenizer) -> None:
    backend.pre_tokenizer = pre_tokenizers.FixedLength(5)


KINDS = {
    "byte_level": (models.BPE, BpeTrainer, byte_level),
    "with_prefix": (models.BPE, BpeTrainer, with_prefix),
    "llama3": (models.BPE, BpeTrainer, llama3),
    "metaspace": (models.Unigram, UnigramTrainer, metaspace),
    "one_word": (models.BPE, BpeTrainer, one_word),
    "bert": (models.WordPiece, WordPieceTrainer, bert),
    "fixed": (models.BPE, BpeTrainer, fixed),
}
UNCUT = ["a" * 4000, " " * 4000, "ab " + "\n" * 3000 + "ab " * 900, "中" * 3000]


def tokenizer_of(kind: str, special: bool = True) -> PreTrainedTokenizerFast:
    model, trainer, prepare = KINDS[kind]
    backend = Tokenizer(model())
    if model is models.WordPiece:
        backend = Tokenizer(model(unk_token="<unk>"))
    prepare(backend)
    options: dict[str, Any] = {"unk_token": "<unk>"} if model is models.Unigram else {}
    backend.train_from_iterator(
        [text_of(seed, 400) for seed in range(30)],
        trainer(
            vocab_size=420,
            special_tokens=["<unk>", "<s>", "</s>", "<mask>"],
            show_progress=False,
            **options,
        ),
    )
    if special:
        ends = [(name, backend.token_to_id(name)) for name in ("<s>", "</s>")]
        template = processors.TemplateProcessing("<s> $A </s>", special_tokens=ends)
        before = backend.post_processor
        backend.post_processor = processors.Sequence([before, template]) if before else template
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


@pytest.fixture(scope="module")
def special() -> PreTrainedTokenizerFast:
    """Puts tokens around a text, and has names for them."""
    found = tokenizer_of("byte_level")
    found.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>"})
    return found


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces as long as tests' texts."""
    monkeypatch.setattr(long_texts, "_PIECE", 300)
    monkeypatch.setattr(long_texts, "_OVERLAP", 200)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("templated", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_pieces_join_to_the_encoding_of_the_whole(kind: str, templated: bool) -> None:
    tokenizer = tokenizer_of(kind)
    n_pieces = []
    for seed in range(12):
        text = text_of(100 + seed, 3000) if seed else "<s>" + text_of(7, 3000)
        pieces = list(encoded_in_pieces(tokenizer, text, templated))
        [whole] = encode(tokenizer, [text], [templated])
        assert [token for piece in pieces for token in piece.tokens] == whole.tokens
        assert [span for piece in pieces for span in piece.offsets] == whole.offsets
        assert pieces[-1].ending == whole.ending
        assert not any(piece.ending for piece in pieces[:-1])
        n_pieces.append(len(pieces))
    assert max(n_pieces) > 4  # special tokens are words in any case


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("text", UNCUT)
@pytest.mark.parametrize("kind", KINDS)
def test_texts_without_a_place_to_cut_are_encoded_all_the_same(kind: str, text: str) -> None:
    tokenizer = tokenizer_of(kind)
    pieces = list(encoded_in_pieces(tokenizer, text, False))
    assert kind != "one_word" or len(pieces) == 1
    [whole] = encode(tokenizer, [text])
    assert [token for piece in pieces for token in piece.tokens] == whole.tokens
    assert [span for piece in pieces for span in piece.offsets] == whole.offsets


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("objective", [CAUSAL, MASKED])
def test_shards_do_not_tell_whether_a_text_came_in_pieces(
    objective: str, masked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = text_of(5, 5000)
    row = {"text": text, "spans": [[3, 40], [290, 310], [2000, 4100]]}
    (tmp_path / "d.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row))
    settings = TokenizeSettings(
        "text", "id", 64, 500, 1000, None, "spans" if masked else None, objective
    )
    monkeypatch.setattr("rayinfluence.corpus.tokenize._BATCH_CHARACTERS", 100)
    found = []
    for longest in (10**6, 1000):
        monkeypatch.setattr("rayinfluence.corpus.tokenize.LONGEST", longest)
        shards: dict[str, bytes] = {}
        file = Store(str(tmp_path / "d.jsonl"))
        _, report = tokenize_file(file, tokenizer_of("byte_level"), settings, shards.__setitem__)
        found.append((shards, report))
    assert found[0] == found[1]
    assert len(found[0][0]) > 1


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("overlap", [0, 9])
@pytest.mark.parametrize("eos", ["auto", "document", "chunk"])
@pytest.mark.parametrize("bos", ["auto", "never", "document", "chunk"])
def test_pieces_are_framed_and_overlap_as_the_whole(
    bos: str,
    eos: str,
    overlap: int,
    masked: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    special: PreTrainedTokenizerFast,
) -> None:
    spans = [[3, 40], [290, 310], [2000, 2900]]
    texts = [text_of(5, 3000), "<s>" + text_of(6, 3000), text_of(7, 3000) + "</s>"]
    lines = [json.dumps({"text": text, "spans": spans}) for text in texts]
    (tmp_path / "d.jsonl").write_text("\n".join(lines))
    settings = TokenizeSettings(
        *("text", "id", 64, 500, 10**6, None),
        "spans" if masked else None,
        bos=bos,
        eos=eos,
        overlap=overlap,
    )
    monkeypatch.setattr("rayinfluence.corpus.tokenize._BATCH_CHARACTERS", 100)
    pieces: list[int] = []

    def counted(*arguments: Any) -> Any:
        found = list(encoded_in_pieces(*arguments))
        pieces.append(len(found))
        return iter(found)

    monkeypatch.setattr("rayinfluence.corpus.tokenize.encoded_in_pieces", counted)
    found = []
    for longest in (10**6, 1000):
        monkeypatch.setattr("rayinfluence.corpus.tokenize.LONGEST", longest)
        shards: dict[str, bytes] = {}
        tokenize_file(Store(str(tmp_path / "d.jsonl")), special, settings, shards.__setitem__)
        found.append(shards)
    assert len(pieces) == 3
    assert min(pieces) > 3
    assert found[0] == found[1]
    assert list(found[0])
