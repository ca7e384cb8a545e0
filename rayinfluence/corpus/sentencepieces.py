"""SentencePiece models as tokenizers that know where in a text their tokens are.

By what a model's file says of itself (sentencepiece_model.proto of google/sentencepiece): its
pieces with their scores, and how it prepares a text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayinfluence.storage.store import Store

if TYPE_CHECKING:
    from tokenizers import Tokenizer

#: How a line of a vocabulary of tiktoken looks, whose files have the same ending.
TIKTOKEN_LINE = re.compile(rb"[A-Za-z0-9+/]+=* \d+\s*$")
#: More than such a line has.
_LINE = 2**10
#: Kinds of models, and of pieces.
_UNIGRAM, _BPE = 1, 2
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4
#: What stands for a space in pieces.
SPACE = "\u2581"


def pieces_file(folder: Path) -> Path | None:
    """The SentencePiece model in a folder, if there is one."""
    for file in sorted(folder.glob("*.model")):
        begins = Store(str(folder)).read_range(file.name, 0, _LINE).split(b"\n", 1)[0]
        if not TIKTOKEN_LINE.match(begins):
            return file
    return None


def pieces_of(file: Path) -> Callable[[str], list[str]]:
    """What SentencePiece itself makes of a text: pieces as the vocabulary has them."""
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor(model_file=str(file))
    return lambda text: [processor.id_to_piece(token) for token in processor.encode(text)]


def vocabulary_of(file: Path) -> dict[str, int]:
    """The ids of a model's pieces."""
    return {piece.piece: token for token, piece in enumerate(_model(file).pieces)}


def backend_of(file: Path, alone: Collection[str] | None = None) -> Tokenizer:
    """A tokenizer that computes what a SentencePiece model says, with the same ids.

    Unlike SentencePiece it finds control pieces (``<s>``) in texts, as tokenizers of transformers
    do. A model that puts a space before a text puts one before all that follows such a piece, too
    (``legacy: true`` of transformers), or before the whole text alone.

    Args:
        file: the model.
        alone: tokens that no space is put behind, nor before a text that begins with one; None
            where one is put behind each.

    Raises:
        ValueError: the model is of words or characters, or has spaces behind words.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers

    proto = _model(file)
    trained, prepared = proto.trainer_spec, proto.normalizer_spec
    if trained.model_type not in (_UNIGRAM, _BPE) or trained.treat_whitespace_as_suffix:
        raise ValueError(f"{file.name} is neither of byte pairs nor a unigram model")
    if trained.model_type == _UNIGRAM:
        scores = [(piece.piece, piece.score) for piece in proto.pieces]
        model: Any = models.Unigram(scores, trained.unk_id, trained.byte_fallback)
    else:
        model = models.BPE(
            {piece.piece: token for token, piece in enumerate(proto.pieces)},
            list(_merges(proto)),
            unk_token=trained.unk_piece,
            fuse_unk=True,
            byte_fallback=trained.byte_fallback,
        )
    backend = Tokenizer(model)
    steps: list[Any] = []
    if prepared.precompiled_charsmap:
        mapped = normalizers.Precompiled(prepared.precompiled_charsmap)
        # It takes "\r\n" for one character, and gives what the first becomes in its place.
        steps += [normalizers.Replace("\r", mapped.normalize_str("\r")), mapped]
    if prepared.remove_extra_whitespaces:
        # Of spaces alone: lines and tabs may be pieces.
        steps += [
            normalizers.Replace(Regex(r"\A +| +\z"), ""),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    texts: list[Any] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    special = {piece.piece for piece in proto.pieces if piece.type == _CONTROL}
    others = {piece.piece for piece in proto.pieces if piece.type == _USER_DEFINED}
    if prepared.add_dummy_prefix:
        as_found = normalizers.Sequence(steps).normalize_str
        begun: Set[str] = set() if alone is None else (special | {*alone}) - others
        steps.append(_before_texts({*map(as_found, begun)}, {*map(as_found, others)}))
        texts.append(decoders.Strip(" ", 1, 0))
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    backend.decoder = decoders.Sequence(texts)
    once = alone is not None
    backend.add_tokens([AddedToken(one, normalized=once, special=True) for one in sorted(special)])
    backend.add_tokens([AddedToken(one, normalized=True, special=False) for one in sorted(others)])
    return backend


def _before_texts(begun: Set[str], whole: Set[str]) -> Any:
    """A space before each text, but for those that some tokens begin, or that others are.

    Tokens that are looked for in a prepared text are prepared themselves for that, and have to stay
    what they are.
    """
    from tokenizers import Regex, normalizers

    excepted = [
        f"(?:{'|'.join(map(re.escape, sorted(tokens - {''})))}){end}"
        for tokens, end in ((begun, ""), (whole, r"\z"))
        if tokens - {""}
    ]
    if not excepted:
        return normalizers.Prepend(SPACE)
    return normalizers.Replace(Regex(rf"\A(?!{'|'.join(excepted)})"), SPACE)


def _merges(proto: Any) -> Iterator[tuple[str, str]]:
    """Pairs of pieces that make a third, of the best score first."""
    normal = {piece.piece: piece.score for piece in proto.pieces if piece.type == _NORMAL}
    for piece in sorted(normal, key=lambda piece: -normal[piece]):
        for cut in range(1, len(piece)):
            if piece[:cut] in normal and piece[cut:] in normal:
                yield piece[:cut], piece[cut:]


def _model(file: Path) -> Any:
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(Store(str(file.parent)).read(file.name))
    return proto
