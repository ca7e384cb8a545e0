"""Folders with a SentencePiece model and no tokenizer.json: the tokens are SentencePiece's."""

import io
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from rayinfluence.corpus.queries import encode_queries
from rayinfluence.corpus.query_forms import Query
from rayinfluence.corpus.tokenizer import encode, token_texts
from rayinfluence.corpus.tokenizer_files import load_tokenizer
from rayinfluence.corpus.tokenizer_made import made_of_vocabulary
from rayinfluence.dataflow.compute.query_rows import completion_texts
from rayinfluence.errors import ModelError

sentencepiece = pytest.importorskip("sentencepiece")

PROSE = [
    "It was the best of times, it was the worst of times; isn't it? 12.5 % of cafés.",
    "The quick brown fox jumps over the lazy dog again and again.",
    "def f(x): return x ** 2",
] * 20
TEXTS = [
    *PROSE[:3],
    "  two  spaces, \n\nlines\tand a tab ",
    "e\u0301 \ufb01ne \uff21\uff22 \u00bd",
    "مرحبا שלום हिन्दी 中文 👨\u200d👩\u200d👧",
    "zzz xx \u4e00\u4e01 q",
    "\nlines\r\n\r\nof both kinds\r \n",
]
AS_IT_IS = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
KINDS: dict[str, dict[str, Any]] = {
    "Llama": {"model_type": "bpe", "byte_fallback": True, "split_digits": True, **AS_IT_IS},
    "Gemma": {
        "model_type": "bpe",
        "byte_fallback": True,
        "add_dummy_prefix": False,
        "user_defined_symbols": ["\n", "\t"],
        **AS_IT_IS,
    },
    "pairs": {"model_type": "bpe", "vocab_size": 90},
    "unigram": {"model_type": "unigram", "vocab_size": 90},
    "unigram with bytes": {"model_type": "unigram", "byte_fallback": True},
    "unigram, as it is": {"model_type": "unigram", "normalization_rule_name": "identity"},
    "pairs, and spaces": {
        "model_type": "bpe",
        "vocab_size": 90,
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
    },
    "with pieces of others": {
        "model_type": "bpe",
        "byte_fallback": True,
        "user_defined_symbols": ["\n", "<tool>"],
        **AS_IT_IS,
    },
    "unigram, lower case": {"model_type": "unigram", "normalization_rule_name": "nmt_nfkc_cf"},
}


OTHERS: dict[str, dict[str, Any]] = {"of words": {"model_type": "word", "vocab_size": 30}}


@cache
def trained(kind: str) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(PROSE),
        model_writer=model,
        hard_vocab_limit=False,
        minloglevel=2,
        **{"vocab_size": 400} | (KINDS | OTHERS)[kind],
    )
    return model.getvalue()


def folder(place: Path, kind: str, model_type: str | None, **about: Any) -> str:
    place.mkdir(exist_ok=True)
    (place / "tokenizer.model").write_bytes(trained(kind))
    if model_type:
        (place / "config.json").write_text(json.dumps({"model_type": model_type}))
    if about:
        (place / "tokenizer_config.json").write_text(json.dumps(about))
    return str(place)


LLAMA: dict[str, Any] = {
    "tokenizer_class": "LlamaTokenizer",
    "add_bos_token": True,
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("model_type", "about"),
    [("llama", {}), ("llama", LLAMA), ("mistral", {}), ("phi3", {}), (None, {})],
)
def test_tokens_are_those_of_sentencepiece(
    tmp_path: Path, kind: str, model_type: str | None, about: dict[str, Any]
) -> None:
    """transformers' own conversion leaves out the space before a text, among other things."""
    path = folder(tmp_path, kind, model_type, **about)
    tokenizer = load_tokenizer(path)
    theirs = sentencepiece.SentencePieceProcessor(model_proto=trained(kind))
    leading = [1] if about else []
    for text in TEXTS:
        [encoding] = encode(tokenizer, [text])
        assert encoding.tokens == leading + theirs.encode(text), text
        taken = {place for start, end in encoding.offsets for place in range(start, end)}
        assert taken >= {place for place, one in enumerate(text) if not one.isspace()}
    said = made_of_vocabulary(path, tokenizer)
    assert said is not None
    before = "'<s>'" if about else "no token"
    assert f"puts {before} before a text" in said


@pytest.mark.parametrize("kind", ["Llama", "Gemma", "pairs"])
@pytest.mark.parametrize("legacy", [True, False, None])
def test_around_special_tokens_they_are_those_of_transformers(
    tmp_path: Path, kind: str, legacy: bool | None
) -> None:
    """A space stands before all that follows one, or before the text alone."""
    said = {} if legacy is None else {"legacy": legacy}
    path = folder(tmp_path, kind, "llama", **LLAMA, **said)
    size = sentencepiece.SentencePieceProcessor(model_proto=trained(kind)).get_piece_size()
    (tmp_path / "added_tokens.json").write_text(json.dumps({"[INST]": size, "[/INST]": size + 1}))
    tokenizer, theirs = load_tokenizer(path), AutoTokenizer.from_pretrained(path)
    for text in (
        "it was</s>the best",
        "<s>[INST]was it[/INST]it was</s><s>[INST]best of times[/INST]",
        "it<unk>was[INST]",
        "[/INST]",
    ):
        expected = theirs.encode(text, add_special_tokens=False)
        if kind == "Gemma":  # it never puts a space there, and transformers' Llama does
            pieces = sentencepiece.SentencePieceProcessor(model_proto=trained(kind))
            parts = re.split(r"(</?s>|<unk>|\[/?INST\])", text)
            expected = [
                token
                for number, part in enumerate(parts)
                for token in ([tokenizer.vocab[part]] if number % 2 else pieces.encode(part))
            ]
        found = tokenizer.encode(text, add_special_tokens=False)
        assert found == expected, (text, tokenizer.convert_ids_to_tokens(found))


def test_spaces_behind_special_tokens_stay_as_they_are(tmp_path: Path) -> None:
    theirs = sentencepiece.SentencePieceProcessor(model_proto=trained("Llama"))

    def of(text: str, legacy: bool) -> list[int]:
        path = folder(tmp_path, "Llama", "llama", **LLAMA, legacy=legacy)
        return load_tokenizer(path).encode(text, add_special_tokens=False)

    it, was = theirs.encode("it"), theirs.encode("was")
    assert of("  it</s> was", legacy=True) == [*theirs.encode("  it"), 2, *theirs.encode(" was")]
    assert of("  it</s> was", legacy=False) == [*theirs.encode("  it"), 2, *was]
    assert of("</s>it", legacy=True) == [2, *it]
    assert of("</s>it", legacy=False)[:2] != [2, it[0]]
    assert of(" </s>", legacy=False) == [*theirs.encode(" "), 2]


@pytest.mark.parametrize("kind", ["Llama", "Gemma", "unigram with bytes"])
def test_texts_and_completions_are_whole_in_every_script(tmp_path: Path, kind: str) -> None:
    tokenizer = load_tokenizer(folder(tmp_path, kind, "llama"))
    for text in TEXTS[:4] + TEXTS[5:]:
        plain = " ".join(text.split())
        [encoding] = encode(tokenizer, [plain])
        assert "".join(token_texts(tokenizer, encoding.tokens)) == plain
        for border in range(1, len(plain) - 1):
            [query] = encode_queries(
                [Query.of("q", plain[:border], plain[border:])], tokenizer, None
            )
            scored = "".join(completion_texts(query.answers[0], tokenizer))
            assert query.answers[0].unscored or scored.endswith(plain[border:])


def test_tokens_that_were_added_later_keep_their_ids(tmp_path: Path) -> None:
    path = folder(tmp_path, "Llama", "llama", **LLAMA)
    size = sentencepiece.SentencePieceProcessor(model_proto=trained("Llama")).get_piece_size()
    added = {"<|im_start|>": size, "<|im_end|>": size + 1}
    (tmp_path / "added_tokens.json").write_text(json.dumps(added))
    tokenizer = load_tokenizer(path)
    assert len(tokenizer) == size + 2
    tokens = encode(tokenizer, ["<s><|im_start|>it<|im_end|>"])[0].tokens
    assert [tokens[0], tokens[1], tokens[-1]] == [1, size, size + 1]
    assert 1 not in tokens[1:]


def test_a_tokenizer_that_is_computed_in_python_is_converted_by_its_model(tmp_path: Path) -> None:
    about = {"tokenizer_class": "BertGenerationTokenizer", "unk_token": "<unk>"}
    path = Path(folder(tmp_path, "Llama", None, **about))
    (path / "tokenizer.model").rename(path / "spiece.model")
    tokenizer = load_tokenizer(str(path))
    theirs = sentencepiece.SentencePieceProcessor(model_proto=trained("Llama"))
    assert encode(tokenizer, [PROSE[0]])[0].tokens == theirs.encode(PROSE[0])


def test_a_class_that_numbers_pieces_otherwise_keeps_its_numbers(tmp_path: Path) -> None:
    path = Path(folder(tmp_path, "unigram", None, tokenizer_class="XLMRobertaTokenizer"))
    (path / "tokenizer.model").rename(path / "sentencepiece.bpe.model")
    theirs = sentencepiece.SentencePieceProcessor(model_proto=trained("unigram"))
    tokens = encode(load_tokenizer(str(path)), [PROSE[0]])[0].tokens
    assert tokens == [0, *(token + 1 for token in theirs.encode(PROSE[0]))]


def test_a_unigram_model_in_a_folder_of_t5_s_class_is_read_with_its_lines(tmp_path: Path) -> None:
    path = folder(tmp_path, "unigram, as it is", None, tokenizer_class="T5Tokenizer")
    theirs = sentencepiece.SentencePieceProcessor(model_proto=trained("unigram, as it is"))
    tokenizer = load_tokenizer(path)
    for text in TEXTS:
        assert encode(tokenizer, [text])[0].tokens == theirs.encode(text)


def test_other_pieces_than_sentencepiece_s_are_refused_with_a_text(tmp_path: Path) -> None:
    path = Path(folder(tmp_path, "unigram", None, tokenizer_class="MBartTokenizer"))
    (path / "tokenizer.model").rename(path / "sentencepiece.bpe.model")
    said = (
        "with other tokens than SentencePiece's: .* against .* for 'café.* Nor .* the id .*`python"
    )
    with pytest.raises(ModelError, match=said):
        load_tokenizer(str(path))


def test_that_a_model_is_not_converted_is_said_with_the_text_and_the_command(
    tmp_path: Path,
) -> None:
    path = folder(tmp_path, "of words", "llama", **LLAMA)
    with pytest.raises(ModelError) as caught:
        load_tokenizer(path)
    said = str(caught.value)
    assert "tokenizer.model is neither of byte pairs nor a unigram model" in said
    assert f"T.from_pretrained({path!r}).save_pretrained('{tmp_path.name}-tokenizer')" in said


def test_a_file_of_tiktoken_s_is_read_as_such(tmp_path: Path) -> None:
    pytest.importorskip("tiktoken")
    import base64

    pieces = [bytes([byte]) for byte in range(256)] + [b"th", b"the"]
    lines = [f"{base64.b64encode(piece).decode()} {rank}\n" for rank, piece in enumerate(pieces)]
    (tmp_path / "tokenizer.model").write_text("".join(lines))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    tokenizer = load_tokenizer(str(tmp_path))
    assert encode(tokenizer, ["the ü"])[0].tokens == [257, 32, 0xC3, 0xBC]
