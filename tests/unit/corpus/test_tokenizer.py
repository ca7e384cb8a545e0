from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from rayinfluence.corpus.tokenizer import encode, token_texts, tokenizer_digest
from rayinfluence.corpus.tokenizer_files import load_tokenizer
from rayinfluence.errors import ModelError
from rayinfluence.testing import tiny_tokenizer

PROSE = [
    "It was the best of times, it was the worst of times, it was the age of wisdom.",
    "In the beginning   there were spaces,\n\n\tand tabs.",
] * 10
HARD = [
    "plain ASCII, with  two spaces and a trailing one ",
    "  leading spaces",
    "emoji 😀 and a family 👨‍👩‍👧‍👦 at the end 🇫🇷",
    "combining: e\u0301 n\u0303 a\u0308\u0323, precomposed é ñ",
    "Thai ภาษาไทย, Hindi हिन्दी, Chinese 中文字符, Arabic العربية",
    "\u2028 separators \x85 and \x00 controls",
    "a real replacement character \ufffd in the middle \ufffd",
    "\ufffd",
    "😀",
    "\n",
    "",
]


def byte_level(**options: Any) -> PreTrainedTokenizerFast:
    """As GPT-2's and Llama 3's: bytes, merged; trained so little that rare characters split."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<bos>", "<eos>"],
        show_progress=False,
    )
    backend.train_from_iterator(PROSE, trainer)
    if options.get("special"):
        backend.post_processor = processors.TemplateProcessing(
            single="<bos> $A <eos>", special_tokens=[("<bos>", 0), ("<eos>", 1)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>")


def byte_fallback() -> PreTrainedTokenizerFast:
    """As Llama 2's: words with a leading mark, bytes for what the vocabulary lacks."""
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581"]
    pieces += [chr(c) for c in range(33, 127)] + ["\u2581t", "\u2581th", "he", "in", "\u2581a"]
    backend = Tokenizer(
        models.BPE(
            {piece: place for place, piece in enumerate(pieces)},
            [("\u2581", "t"), ("\u2581t", "h"), ("h", "e"), ("i", "n"), ("\u2581", "a")],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


TOKENIZERS = {"bytes": byte_level(), "fallback": byte_fallback()}


def whole(tokenizer: PreTrainedTokenizerFast, tokens: list[int]) -> str:
    return str(tokenizer.backend_tokenizer.decode(tokens, False))


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("text", HARD, ids=range(len(HARD)))
def test_token_texts_join_to_the_text(kind: str, text: str) -> None:
    tokenizer = TOKENIZERS[kind]
    [encoding] = encode(tokenizer, [text])
    texts = token_texts(tokenizer, encoding.tokens)
    assert len(texts) == len(encoding.tokens)
    assert "".join(texts) == whole(tokenizer, encoding.tokens)
    assert "".join(texts).strip() == text.strip()


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(0, 319), max_size=14))
def test_token_texts_of_any_tokens_join_to_what_decoding_gives(tokens: list[int]) -> None:
    texts = token_texts(TOKENIZERS["bytes"], tokens)
    assert len(texts) == len(tokens)
    assert "".join(texts) == whole(TOKENIZERS["bytes"], tokens)


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(sorted(TOKENIZERS)), st.text(max_size=12))
def test_token_texts_of_any_text_join_to_it(kind: str, text: str) -> None:
    [encoding] = encode(TOKENIZERS[kind], [text])
    texts = token_texts(TOKENIZERS[kind], encoding.tokens)
    assert "".join(texts) == whole(TOKENIZERS[kind], encoding.tokens)
    assert kind == "fallback" or "".join(texts) == text


def test_a_character_of_several_tokens_belongs_to_the_last_of_them() -> None:
    tokenizer = TOKENIZERS["bytes"]
    [encoding] = encode(tokenizer, ["a😀b"])
    texts = token_texts(tokenizer, encoding.tokens)
    assert texts[0] == "a"
    assert texts[-1] == "b"
    assert [text for text in texts[1:-1] if text] == ["😀"]
    assert texts[-2] == "😀"


def test_leading_spaces_are_kept() -> None:
    assert token_texts(tiny_tokenizer(), [6, 7, 0, 8]) == ["w5", " w6", "<unk>", " w7"]


def test_a_chunk_that_begins_or_ends_within_a_character_is_shown_whole() -> None:
    tokenizer = TOKENIZERS["bytes"]
    tokens = encode(tokenizer, ["x😀y"])[0].tokens
    assert len(tokens) == 6
    assert "".join(token_texts(tokenizer, tokens[:3])) == whole(tokenizer, tokens[:3])
    assert "".join(token_texts(tokenizer, tokens[3:])) == whole(tokenizer, tokens[3:])


def test_offsets_are_characters_of_the_text() -> None:
    text = "It was 😀 the best\n of times"
    [encoding] = encode(TOKENIZERS["bytes"], [text])
    assert len(encoding.tokens) == len(encoding.offsets)
    covered = {place for start, end in encoding.offsets for place in range(start, end)}
    assert covered == set(range(len(text)))


ACCENTS = [
    "e\u0301",  # an accent at the end
    "xe\u0301y n\u0303",
    "a\u0308\u0323 e\u0323\u0301\u0301x",  # out of order, and more than compose
    "x\u0327\u0308y",  # of which the second is put on the letter
    "\u1112\u1161\u11ab x",  # a syllable of three letters
    "\u09c7\u09be",  # vowels of which one is no accent
    "\u0301x \u212b \ufb01",
    "say ``hi`` \n x",  # of quotation marks that become one
]


def normalising(normalizer: Any, special: bool = False) -> PreTrainedTokenizerFast:
    tokenizer = byte_level(special=special)
    tokenizer.backend_tokenizer.normalizer = normalizer
    return tokenizer


@pytest.mark.parametrize("text", ACCENTS)
@pytest.mark.parametrize("form", ["NFC", "NFKC", "NFD", "none", "quotes"])
@pytest.mark.parametrize("special", [False, True])
def test_offsets_take_in_every_character_whatever_is_put_in_its_place(
    text: str, form: str, special: bool
) -> None:
    quotes = [normalizers.NFC(), normalizers.Replace("``", '"')]
    normalizer = {
        "NFC": normalizers.NFC(),
        "NFKC": normalizers.NFKC(),
        "NFD": normalizers.NFD(),
        "none": None,
        "quotes": normalizers.Sequence(quotes),
    }[form]
    [encoding] = encode(normalising(normalizer, special), [text])
    spans = [span for span in encoding.offsets if span[0] < span[1]]
    taken = {place for start, end in spans for place in range(start, end)}
    assert taken == set(range(len(text)))
    assert spans == sorted(spans)


def test_what_a_normalizer_takes_away_is_no_token_s() -> None:
    plain = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])
    [encoding] = encode(normalising(plain), ["ae\u0301x"])
    assert encoding.offsets == [(0, 1), (1, 2), (3, 4)]
    [encoding] = encode(normalising(normalizers.Replace("`", "")), ["a`x"])
    assert encoding.offsets == [(0, 1), (2, 3)]


def test_leading_special_tokens_stay_and_trailing_ones_go() -> None:
    tokenizer = byte_level(special=True)
    [encoding] = encode(tokenizer, ["the times"])
    assert encoding.tokens[0] == 0
    assert encoding.offsets[0] == (0, 0)
    assert 1 not in encoding.tokens
    [plain] = encode(TOKENIZERS["bytes"], ["the times"])
    assert encoding.tokens[1:] == plain.tokens


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("<bos>the times", "the times"),
        ("<bos>", ""),
        ("<bos><bos>the times", "<bos>the times"),  # what is in a text twice stays so
        ("the <bos>times", "the <bos>times"),
        ("<bos>the times<eos>", "the times<eos>"),
        ("<eos>the times", "<eos>the times"),
    ],
)
def test_a_text_that_begins_with_the_leading_token_gets_no_second_one(text: str, bare: str) -> None:
    """As a rendered chat template does."""
    tokenizer = byte_level(special=True)
    [encoding] = encode(tokenizer, [text])
    body = tokenizer.backend_tokenizer.encode(bare, add_special_tokens=False).ids
    assert encoding.tokens == [0, *body]
    assert len(encoding.offsets) == len(encoding.tokens)
    if text.startswith("<bos>"):
        assert encoding.offsets[0] == (0, len("<bos>"))


def test_several_leading_tokens_stand_once_each() -> None:
    """Of GLM's two a text may hold both or the last."""
    tokenizer = byte_level(special=True)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> <eos> $A", special_tokens=[("<bos>", 0), ("<eos>", 1)]
    )
    [body] = encode(TOKENIZERS["bytes"], ["the times"])
    for begins in ("", "<bos><eos>", "<eos>"):
        [encoding] = encode(tokenizer, [f"{begins}the times"])
        assert encoding.tokens == [0, 1, *body.tokens]
    [encoding] = encode(tokenizer, ["<bos>the times"])
    assert encoding.tokens == [0, 1, 0, *body.tokens]


def test_a_tokenizer_is_known_by_its_definition(tmp_path: Path) -> None:
    tiny_tokenizer().save_pretrained(tmp_path / "a")
    tiny_tokenizer().save_pretrained(tmp_path / "b")
    a, b = load_tokenizer(str(tmp_path / "a")), load_tokenizer(str(tmp_path / "b"))
    assert tokenizer_digest(a) == tokenizer_digest(b)
    assert tokenizer_digest(a) != tokenizer_digest(TOKENIZERS["bytes"])


def test_folders_without_a_tokenizer_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"(?s)none can be loaded .* Save it beside the model"):
        load_tokenizer(str(tmp_path / "empty"))
    # transformers makes an empty tokenizer of a config alone.
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(ModelError, match=r"tokenizer: .*tokenizer\.json"):
        load_tokenizer(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="tokenizer: none can be loaded"):
        load_tokenizer(str(tmp_path))
