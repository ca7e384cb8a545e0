"""Tokenizers as people's folders hold them."""

import copy
import json
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from loopback_hub import Hub
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from rayinfluence.corpus import tokenizer_lacking
from rayinfluence.corpus.queries import encode_queries
from rayinfluence.corpus.query_forms import Query
from rayinfluence.corpus.tokenizer import encode, tokenizer_digest
from rayinfluence.corpus.tokenizer_files import load_tokenizer
from rayinfluence.corpus.tokenizer_made import made_of_vocabulary, rebuilt_otherwise
from rayinfluence.errors import ModelError
from rayinfluence.testing import tiny_tokenizer

TEXT = "It was THE 1234  best of times,\n\tit was the worst "


def byte_level(trim: bool) -> Tokenizer:
    """Bytes and a few merges, with what real ones differ in: digits apart, lower case."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<bos>": 0, "<eos>": 1} | {piece: i + 2 for i, piece in enumerate(alphabet)}
    merges = [("t", "h"), ("th", "e"), ("Ġ", "Ġ"), ("1", "2"), ("3", "4"), ("Ġ", "w")]
    for pair in merges:
        vocabulary["".join(pair)] = len(vocabulary)
    backend = Tokenizer(models.BPE(vocabulary, merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    backend.add_special_tokens(["<bos>", "<eos>"])
    backend.decoder = decoders.ByteLevel()
    backend.normalizer = normalizers.Lowercase()
    backend.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=trim),
            processors.TemplateProcessing(
                single="<bos> $A <eos>", special_tokens=[("<bos>", 0), ("<eos>", 1)]
            ),
        ]
    )
    return backend


def save(folder: Path, backend: Tokenizer, **about: Any) -> str:
    folder.mkdir(exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    if about:
        (folder / "tokenizer_config.json").write_text(json.dumps(about))
    return str(folder)


def ids(tokenizer: PreTrainedTokenizerFast, text: str = TEXT) -> list[int]:
    return encode(tokenizer, [text])[0].tokens


@pytest.mark.parametrize("trim", [True, False])
@pytest.mark.parametrize("kind", [None, "GPT2", "Qwen2", "GPTNeoX", "CodeGen", "Cohere"])
@pytest.mark.parametrize("model_type", [None, "gpt2", "qwen2", "cohere", "codegen", "llama"])
def test_the_ids_are_those_of_tokenizer_json_whatever_class_is_named(
    tmp_path: Path, trim: bool, kind: str | None, model_type: str | None
) -> None:
    about = {"bos_token": "<bos>", "eos_token": "<eos>"}
    path = save(
        tmp_path / "a",
        byte_level(trim),
        **about,
        **({"tokenizer_class": f"{kind}Tokenizer"} if kind else {}),
    )
    if model_type:
        (tmp_path / "a" / "config.json").write_text(json.dumps({"model_type": model_type}))
    tokenizer = load_tokenizer(path)
    expected = byte_level(trim).encode(TEXT, add_special_tokens=False).ids
    assert ids(tokenizer) == [0, *expected]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1)


def test_that_transformers_would_rebuild_another_tokenizer_is_said_with_a_text(
    tmp_path: Path,
) -> None:
    about = {"bos_token": "<bos>", "eos_token": "<eos>"}
    path = save(tmp_path / "a", byte_level(True), **about, tokenizer_class="GPT2Tokenizer")
    said = rebuilt_otherwise(path, load_tokenizer(path))
    assert said is not None
    assert "transformers makes the one of" in said
    assert "a GPT2Tokenizer with other tokens than its tokenizer.json: " in said
    assert 'for "It was the BEST of times' in said
    plain = save(tmp_path / "b", byte_level(True), **about)
    assert rebuilt_otherwise(plain, load_tokenizer(plain)) is None
    tiny_tokenizer().save_pretrained(tmp_path / "c")
    tiny = str(tmp_path / "c")
    assert rebuilt_otherwise(tiny, load_tokenizer(tiny)) is None


@pytest.mark.parametrize(
    "about",
    [
        {"pad_token": "!"},
        {"bos_token": "the"},
        {"extra_special_tokens": {"unit": "12"}},
        {"added_tokens_decoder": {"5": {"content": "!", "special": True}}},
    ],
    ids=lambda about: next(iter(about)),
)
def test_an_ordinary_word_that_was_made_special_elsewhere_splits_no_text(
    tmp_path: Path, about: dict[str, Any]
) -> None:
    path = save(tmp_path / "a", byte_level(True), **about)
    text = "Wow!! x!= y, the 12 others 1212"
    tokenizer = load_tokenizer(path)
    assert ids(tokenizer, text) == [0, *byte_level(True).encode(text, add_special_tokens=False).ids]
    said = rebuilt_otherwise(path, tokenizer)
    assert said is None or "than its tokenizer.json" in said


def test_what_is_wrong_with_a_tokenizer_s_files_is_said(tmp_path: Path) -> None:
    none = tmp_path / "none"
    none.mkdir()
    (none / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ModelError, match=r"there is no tokenizer\.json in it"):
        load_tokenizer(str(none))
    broken = save(tmp_path / "broken", byte_level(True))
    Path(broken, "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(ModelError, match=r"its tokenizer\.json is damaged or of a later version"):
        load_tokenizer(broken)


@pytest.mark.parametrize("how", ["truncation", "padding", "both"])
def test_saved_truncation_and_padding_change_nothing_and_cut_nothing(
    tmp_path: Path, how: str
) -> None:
    backend = byte_level(True)
    if how != "padding":
        backend.enable_truncation(max_length=5)
    if how != "truncation":
        backend.enable_padding(length=90, pad_id=1, pad_token="<eos>")
    tokenizer = load_tokenizer(save(tmp_path / how, backend))
    plain = load_tokenizer(save(tmp_path / "plain", byte_level(True)))
    before = tokenizer_digest(tokenizer)
    assert before == tokenizer_digest(plain)
    assert ids(tokenizer) == ids(plain)
    tokenizer(TEXT, truncation=True, max_length=3)
    assert ids(tokenizer) == ids(plain)
    # A tokenizer that did not come from here is read the same.
    theirs = PreTrainedTokenizerFast(tokenizer_object=copy.deepcopy(backend))
    assert ids(theirs) == ids(plain)


@pytest.mark.parametrize("loaded", [True, False], ids=["loaded", "made elsewhere"])
@pytest.mark.parametrize(
    ("prompt", "completion"),
    [
        ("x =", "  12"),
        ("x", "        return 1"),
        ("x:", "\n\n    if y:\n        z\n"),
        ("what follows?", "   "),
        ("a", " b "),
        ("a ", " "),
        ("", "  x"),
        ("a\n", "\t\t"),
    ],
)
def test_every_token_of_a_completion_counts_where_offsets_are_trimmed(
    tmp_path: Path, prompt: str, completion: str, loaded: bool
) -> None:
    trimming, plain = (
        load_tokenizer(save(tmp_path / str(trim), byte_level(trim)))
        if loaded
        else PreTrainedTokenizerFast(tokenizer_object=byte_level(trim))
        for trim in (True, False)
    )
    query = Query.of("q", prompt, completion)
    [ours], [theirs] = (encode_queries([query], each, None) for each in (trimming, plain))
    assert ours.answers == theirs.answers
    # Bytes are tokens of their own here, but for runs of two spaces.
    text = trimming.decode(ours.answers[0].completion, clean_up_tokenization_spaces=False)
    assert text.endswith(completion)
    assert len(text) - len(completion) <= 1  # a token may lie across the border


@pytest.mark.parametrize("text", ["ends in spaces   ", "   ", "a\n\n", " \t x \n "])
def test_spaces_at_the_end_of_a_document_are_tokens_of_it(text: str) -> None:
    trimming, plain = (
        PreTrainedTokenizerFast(tokenizer_object=byte_level(trim)) for trim in (True, False)
    )
    [encoding], [expected] = encode(trimming, [text]), encode(plain, [text])
    assert encoding == expected
    assert trimming.decode(encoding.tokens[1:], clean_up_tokenization_spaces=False) == text
    assert encoding.offsets[-1][1] == len(text)


def test_an_end_marker_counts_where_the_text_holds_it_and_not_where_it_is_added() -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level(True))
    assert ids(tokenizer, "a<eos>") == [0, ids(tokenizer, "a")[1], 1]
    [query] = encode_queries([Query.of("q", "a", "<eos>")], tokenizer, None)
    assert query.answers[0].completion == (1,)


SENTENCEPIECE = b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02\n"
TIKTOKEN = b"IQ== 0\nIg== 1\n"


@pytest.mark.parametrize(
    ("name", "body", "there", "expected"),
    [
        ("tokenizer.model", SENTENCEPIECE, {"google.protobuf"}, "package sentencepiece, which"),
        ("spiece.model", SENTENCEPIECE, {"sentencepiece"}, "package protobuf, which"),
        ("tokenizer.model", SENTENCEPIECE, set(), "pip install sentencepiece protobuf"),
        ("tokenizer.model", TIKTOKEN, {"sentencepiece"}, "package tiktoken, which"),
        ("qwen.tiktoken", TIKTOKEN, set(), "package tiktoken, which"),
    ],
)
def test_the_package_that_is_really_missing_is_named_for_its_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    body: bytes,
    there: set[str],
    expected: str,
) -> None:
    asked = {"sentencepiece", "google.protobuf", "tiktoken"}

    def spec(module: str) -> ModuleSpec | None:
        if module in asked:
            return ModuleSpec(module, None) if module in there else None
        return find_spec(module)

    monkeypatch.setattr(tokenizer_lacking, "find_spec", spec)
    (tmp_path / name).write_bytes(body)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ModelError, match="tokenizer: ") as caught:
        load_tokenizer(str(tmp_path))
    assert f"{name} is read by the {expected}" in str(caught.value) or (
        f"{name} is read by" in str(caught.value) and expected in str(caught.value)
    )
    assert len(str(caught.value)) < 500


def vocabulary() -> dict[str, int]:
    pieces = ["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "th", "the", "\u0120w"]
    return {piece: place for place, piece in enumerate(pieces)}


MERGES = "#version: 0.2\nt h\nth e\n\u0120 w\n"


def folder_with(folder: Path, **files: Any) -> str:
    """A folder with files whose names have `_` for the dot."""
    folder.mkdir(exist_ok=True)
    for name, body in files.items():
        text = body if isinstance(body, str) else json.dumps(body)
        (folder / ".".join(name.rsplit("_", 1))).write_text(text)
    return str(folder)


@pytest.mark.parametrize("model_type", ["gpt2", "qwen2", "opt"])
def test_a_vocabulary_with_its_merges_is_read_without_tokenizer_json_and_said(
    tmp_path: Path, model_type: str
) -> None:
    path = folder_with(
        tmp_path, vocab_json=vocabulary(), merges_txt=MERGES, config_json={"model_type": model_type}
    )
    tokenizer = load_tokenizer(path)
    expected = [vocabulary()[piece] for piece in ("the", "\u0120w", "o")]
    assert ids(tokenizer, "the wo") == expected
    said = made_of_vocabulary(path, tokenizer)
    assert said is not None
    assert f"there is no tokenizer.json in {path}" in said
    assert "made of its vocabulary puts no token before a text" in said
    tokenizer.save_pretrained(tmp_path / "saved")
    saved = load_tokenizer(str(tmp_path / "saved"))
    assert ids(saved, "the wo") == expected
    assert made_of_vocabulary(str(tmp_path / "saved"), saved) is None


def test_a_vocabulary_of_words_is_read_without_tokenizer_json(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "##w", "a"]
    path = folder_with(tmp_path, vocab_txt="\n".join(words), config_json={"model_type": "bert"})
    tokenizer = load_tokenizer(path)
    assert ids(tokenizer, "the aw") == [2, 5, 7, 6]
    assert "puts '[CLS]' before a text" in str(made_of_vocabulary(path, tokenizer))


GPT2, LLAMA = {"model_type": "gpt2"}, {"model_type": "llama"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"vocab_json": True, "config_json": GPT2}, "it has vocab.json without merges.txt, "),
        ({"merges_txt": MERGES, "config_json": GPT2}, "it has merges.txt without vocab.json, "),
        ({"vocab_json": True}, "it has vocab.json without merges.txt, "),
        (
            {"vocab_json": True, "tokenizer_config_json": {"tokenizer_class": "Qwen2Tokenizer"}},
            "it has vocab.json without merges.txt, ",
        ),
        (
            {"vocab_json": True, "merges_txt": MERGES},
            "nothing says which tokenizer reads its merges.txt and vocab.json; ",
        ),
        ({"vocab_txt": "[UNK]\na"}, "nothing says which tokenizer reads its vocab.txt; "),
        (
            {"vocab_json": True, "merges_txt": MERGES, "config_json": LLAMA},
            "for llama (model_type of config.json) transformers does not read its merges.txt and ",
        ),
        (
            {
                "vocab_json": True,
                "merges_txt": MERGES,
                "tokenizer_config_json": {"tokenizer_class": "PreTrainedTokenizerFast"},
            },
            "for PreTrainedTokenizerFast (tokenizer_class of tokenizer_config.json) transformers ",
        ),
        (
            {"tokenizer_config_json": {"tokenizer_class": "LlamaTokenizer"}, "config_json": LLAMA},
            "knows no token but special ones: there is no tokenizer.json in it",
        ),
    ],
)
def test_what_a_folder_without_tokenizer_json_lacks_is_said(
    tmp_path: Path, files: dict[str, Any], expected: str
) -> None:
    """And not another reason: no package is missing here."""
    files = {name: vocabulary() if body is True else body for name, body in files.items()}
    path = folder_with(tmp_path, **files)
    with pytest.raises(
        ModelError, match=r"^tokenizer: .*name its folder under `tokenizer`\.$"
    ) as caught:
        load_tokenizer(path)
    assert expected in str(caught.value)
    for wrong in ("sentencepiece", "tiktoken", "filenames", "memory"):
        assert wrong not in str(caught.value)


def test_a_tokenizer_that_is_computed_in_python_is_refused_where_nothing_converts_it(
    tmp_path: Path,
) -> None:
    path = folder_with(
        tmp_path,
        vocab_json={"<unk>": 0, "a</w>": 1},
        merges_txt="#version: 0.2\n",
        config_json={"model_type": "ctrl"},
    )
    with pytest.raises(ModelError, match=r"is a CTRLTokenizer, which is computed in Python .*"):
        load_tokenizer(path)


SLOW = """
from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

class {name}(BertTokenizerLegacy):
    def _convert_token_to_id(self, token):
        return super()._convert_token_to_id({change})
"""


@pytest.mark.parametrize(
    ("name", "change", "refused"),
    [
        ("BertTokenizer", "token", None),
        ("BertTokenizer", "token.replace('w', 'a')", "is a BertTokenizer, .* cannot be converted"),
        ("OurTokenizer", "token", "is a OurTokenizer, .* cannot be converted to one"),
    ],
)
def test_a_tokenizer_of_a_folder_s_own_code_is_converted_where_that_gives_the_same_tokens(
    tmp_path: Path, name: str, change: str, refused: str | None
) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "was", "a", "of", ",", "it"]
    path = folder_with(
        tmp_path / f"{name}{len(change)}",
        slow_py=SLOW.format(name=name, change=change),
        vocab_txt="\n".join(words),
        tokenizer_config_json={
            "auto_map": {"AutoTokenizer": [f"slow.{name}", None]},
            "tokenizer_class": name,
        },
    )
    if refused:
        with pytest.raises(ModelError, match=refused):
            load_tokenizer(path, trust_remote_code=True)
        return
    tokenizer = load_tokenizer(path, trust_remote_code=True)
    assert encode(tokenizer, ["it was, a"])[0].offsets == [(0, 0), (0, 2), (3, 6), (6, 7), (8, 9)]
    assert ids(tokenizer, "it was, a") == [2, 10, 6, 9, 7]


@pytest.mark.parametrize("code", [[None, "org/theirs--tokenization.Own"], "org/theirs--own.Own"])
def test_code_of_another_repository_is_not_fetched_for_a_tokenizer(
    tmp_path: Path, hub: Hub, code: object
) -> None:
    tiny_tokenizer().save_pretrained(tmp_path)
    about = json.loads((tmp_path / "tokenizer_config.json").read_text())
    about["auto_map"] = {"AutoTokenizer": code}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(about))
    tokenizer = load_tokenizer(str(tmp_path), trust_remote_code=True)
    assert rebuilt_otherwise(str(tmp_path), tokenizer, True) is None
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.txt").write_text("a\n")
    with pytest.raises(ModelError, match=r"another repository \(org/theirs--.*, which is not fet"):
        load_tokenizer(str(tmp_path), trust_remote_code=True)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("files", "damaged"),
    [
        ({"tokenizer.model": SENTENCEPIECE[:20]}, "its tokenizer.model is"),
        ({"tokenizer.model": b"\0\1no vocabulary" * 9}, "its tokenizer.model is"),
        ({"tokenizer.model": TIKTOKEN + b"Iw="}, "its tokenizer.model is"),
        ({"tokenizer.json": b'{"version": "1.0"}'}, "its tokenizer.json is"),
    ],
)
def test_a_damaged_vocabulary_is_to_be_copied_or_downloaded_again_and_not_saved(
    tmp_path: Path, files: dict[str, bytes], damaged: str
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    for name, body in files.items():
        (tmp_path / name).write_bytes(body)
    with pytest.raises(ModelError, match=r"Copy its files again .* or download them") as caught:
        load_tokenizer(str(tmp_path))
    assert f"{damaged} damaged" in str(caught.value)
    assert "Save it" not in str(caught.value)
