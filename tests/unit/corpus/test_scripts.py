"""The text of each token, in scripts of all directions, by tokenizers of all common kinds."""

from collections.abc import Callable
from typing import Any

import pytest
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

from rayinfluence.corpus.queries import encode_queries
from rayinfluence.corpus.query_forms import Query
from rayinfluence.corpus.tokenizer import encode, token_texts
from rayinfluence.dataflow.compute.query_rows import completion_texts

TEXTS = {
    "Arabic": "كان أفضل الأوقات، وكان أسوأ الأوقات. مَدْرَسَةٌ",
    "Persian": "می\u200cخواهم کتاب\u200cها را بخوانم",  # noqa: RUF001
    "Hebrew": "שָׁלוֹם עולם, זה 123 מבחן (abc)",
    "Devanagari": "यह एक परीक्षा है। क्ष त्र र्\u200dय",
    "Thai": "ภาษาไทยน้ำ ทดสอบ",
    "Chinese, Japanese, Korean": "中文字符。日本語のテキスト。한국어 텍스트",
    "emoji": "a family 👨\u200d👩\u200d👧\u200d👦, a flag 🇫🇷, skin 👍🏽, a heart ❤\ufe0f.",
    "both directions": "He said שלום and مرحبا, 12 + 3.",
    "Latin": "It was the best of times; it's 12.5 % of cafés.",
}
KNOWN = [TEXTS["Arabic"], TEXTS["Latin"]]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
WITH_BYTES = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]


def made(backend: Tokenizer, special: bool = True) -> PreTrainedTokenizerFast:
    if special:
        backend.add_special_tokens(["<s>", "</s>"])
        at = backend.token_to_id("<s>")
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", at)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def characters() -> list[str]:
    return sorted(set("".join(KNOWN)) - {" "})


def unigram(scheme: str, decoder: Any = None) -> PreTrainedTokenizerFast:
    """SentencePiece's unigram model with bytes for what it does not know, as T5's and Llama's."""
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *((byte, 0.0) for byte in BYTES)]
    pieces += [("\u2581", -2.0), *((one, -3.0) for one in characters())]
    pieces += [("\u2581the", -1.0), ("\u2581كان", -1.0), ("imes", -1.0)]  # noqa: RUF001
    backend = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    metaspace = decoders.Metaspace(prepend_scheme=scheme)
    backend.decoder = decoder or decoders.Sequence([decoders.ByteFallback(), metaspace])
    return made(backend)


def pairs() -> PreTrainedTokenizerFast:
    """SentencePiece's byte-pair model with bytes and without a space before the text: Gemma's."""
    vocabulary = {"<unk>": 0} | {byte: i + 1 for i, byte in enumerate(BYTES)}
    for piece in ["\u2581", "\u2581\u2581", *characters()]:
        vocabulary.setdefault(piece, len(vocabulary))
    merges = [("\u2581", "\u2581")]
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizers.Replace(" ", "\u2581")
    backend.decoder = decoders.Sequence(WITH_BYTES)
    return made(backend)


def byte_level() -> PreTrainedTokenizerFast:
    """As GPT-2's and Llama 3's, trained so little that most characters are several tokens."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(KNOWN * 3, trainer)
    return made(backend)


def words(cleanup: bool) -> PreTrainedTokenizerFast:
    """BERT's pieces of words."""
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(cleanup=cleanup)
    unknown = ["[UNK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=unknown, show_progress=False)
    backend.train_from_iterator(TEXTS.values(), trainer)
    return made(backend, special=False)


def ends_of_words() -> PreTrainedTokenizerFast:
    """Pairs with a mark at the end of each word, as the first GPT's."""
    backend = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.BPEDecoder("</w>")
    trainer = trainers.BpeTrainer(vocab_size=250, end_of_word_suffix="</w>", show_progress=False)
    backend.train_from_iterator(TEXTS.values(), trainer)
    return made(backend, special=False)


#: Those that lose nothing of a text, with what their decoders put before it.
EXACT: dict[str, tuple[Callable[[], PreTrainedTokenizerFast], str]] = {
    "unigram, always a space before": (lambda: unigram("always"), "<s> "),
    "unigram, a space before the first": (lambda: unigram("first"), "<s> "),
    "unigram, no space before": (lambda: unigram("never"), "<s>"),
    "unigram, Llama's decoder": (
        lambda: unigram("first", decoders.Sequence([*WITH_BYTES, decoders.Strip(" ", 1, 0)])),
        "<s> ",
    ),
    "pairs": (pairs, "<s>"),
    "bytes": (byte_level, "<s>"),
}
OTHERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "words": lambda: words(cleanup=False),
    "words, cleaned up": lambda: words(cleanup=True),
    "ends of words": ends_of_words,
}


def joined(tokenizer: PreTrainedTokenizerFast, tokens: list[int]) -> str:
    texts = token_texts(tokenizer, tokens)
    assert len(texts) == len(tokens)
    return "".join(texts)


@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize("script", TEXTS)
def test_token_texts_are_the_text_in_every_script(kind: str, script: str) -> None:
    make, before = EXACT[kind]
    tokenizer = make()
    [encoding] = encode(tokenizer, [TEXTS[script]])
    assert joined(tokenizer, encoding.tokens) == before + TEXTS[script]


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("script", TEXTS)
def test_token_texts_are_what_decoding_makes_of_them_where_a_tokenizer_loses_some(
    kind: str, script: str
) -> None:
    tokenizer = OTHERS[kind]()
    [encoding] = encode(tokenizer, [TEXTS[script]])
    decoded = tokenizer.backend_tokenizer.decode(encoding.tokens, False)
    assert joined(tokenizer, encoding.tokens) == decoded


@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize("script", TEXTS)
def test_a_cut_within_a_character_spoils_that_character_alone(kind: str, script: str) -> None:
    """Documents are cut by tokens, wherever that is in a character."""
    make, before = EXACT[kind]
    tokenizer = make()
    text = TEXTS[script]
    [encoding] = encode(tokenizer, [text])
    for cut in range(2, len(encoding.tokens)):
        left = joined(tokenizer, encoding.tokens[:cut]).removeprefix(before)
        right = joined(tokenizer, encoding.tokens[cut:])
        start, end = left.rstrip("\ufffd"), right.lstrip("\ufffd")
        within = len(left) > len(start) or len(right) > len(end)
        # The decoder takes the space from the front of what it is given.
        assert text.startswith(start)
        assert text.endswith(end)
        assert len(text) - len(start) - len(end) <= (1 if within else right[:1] != " "), (cut, left)
        # At most a replacement for each byte of what is left of the character.
        assert len(left) - len(start) <= 1
        assert len(right) - len(end) <= 3


@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize("script", TEXTS)
def test_a_completion_s_tokens_are_the_completion_in_every_script(kind: str, script: str) -> None:
    tokenizer = EXACT[kind][0]()
    text = TEXTS[script]
    for border in range(1, len(text) - 1):
        query = Query.of("q", text[:border], text[border:])
        [encoded] = encode_queries([query], tokenizer, None)
        scored = "".join(completion_texts(encoded.answers[0], tokenizer))
        # A token may lie across the border.
        assert scored.endswith(query.answers[0].completion)
        assert f" {text}".endswith(scored)  # the first piece has a space of its own
        if not encoded.answers[0].across:
            assert not scored.removesuffix(query.answers[0].completion).strip()
