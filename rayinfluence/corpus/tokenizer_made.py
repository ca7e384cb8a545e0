"""Tokenizers that transformers makes of a folder, beside what the folder's own files say."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayinfluence.corpus.sentencepieces import (
    SPACE,
    backend_of,
    pieces_file,
    pieces_of,
    vocabulary_of,
)
from rayinfluence.corpus.tokenizer import encode, faithful
from rayinfluence.corpus.tokenizer_lacking import TOKENIZER
from rayinfluence.errors import ModelError, brief
from rayinfluence.registered import code_elsewhere, not_fetched, only_code_of
from rayinfluence.storage.downloads import read_json_object
from rayinfluence.storage.store import Store

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

#: Texts on which tokenizers of one vocabulary come apart, if they do anywhere.
_PROBES = (
    "It was the BEST of times, it's 12345.678 of the world's 1st; don't you'll WE'VE\u2019s.",
    "  two   spaces,\ttabs\t\tand\r\n\r\n lines \n  end ",
    "def f(x):\n    if x != 3:\n        return {'a_b': [x**2, -1e-9]}  # snake_case, CamelCase\n",
    "caf\u00e9 cafe\u0301 na\u00efve \ufb01ne \u2460 \uff21\uff22 \u00bd \u2026 \u201cquoted\u201d",
    "\u0420\u0443\u0441\u0441\u043a\u0438\u0439 \u0395\u03bb\u03bb\u03b7\u03bd\u03b9\u03ba\u03ac",
    "\u4e2d\u6587\u5b57\u7b26 \u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8 \ud55c\uad6d\uc5b4",
    "\u0627\u0644\u0639\u0631\u0628\u064a\u0629 \u0939\u093f\u0928\u094d\u0926\u0940 \u0e44\u0e17",
    "\U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467 \u00a0\u2003\u200b\ufeff<html>&amp;",
)
CONFIG = "tokenizer_config.json"
_REMEDY = (
    f"Make a {TOKENIZER} of it with the package tokenizers, and name its folder under `tokenizer`."
)


def made_by_transformers(path: str, trust_remote_code: bool) -> Any:
    """The tokenizer of a folder as AutoTokenizer makes it, of whatever kind."""
    from transformers import AutoTokenizer

    about = Store(path)
    code = read_json_object(about, CONFIG).get("auto_map") if about.exists(CONFIG) else None
    if trust_remote_code and (elsewhere := code_elsewhere(code, ("AutoTokenizer",))):
        raise ModelError(not_fetched(elsewhere, CONFIG))
    with only_code_of(path if trust_remote_code else None):
        return AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)


def of_vocabulary(path: str, trust_remote_code: bool) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder without tokenizer.json: what transformers makes of its vocabulary.

    Where that is computed in Python, or splits texts otherwise than the SentencePiece model that
    it is made of, one of the same ids is made that does not.

    Raises:
        ModelError: none has the tokens that it should have.
    """
    from transformers import PreTrainedTokenizerFast

    made, file = made_by_transformers(path, trust_remote_code), pieces_file(Path(path))
    if not isinstance(made, PreTrainedTokenizerFast):
        return _converted(path, made, file)
    if file is None:
        return made
    pieces, theirs = pieces_of(file), faithful(made.backend_tokenizer)
    text = _text_that_differs(theirs, pieces)
    if text is None:
        return made
    special = _special(made)
    once = not _spaced_behind(theirs, special)
    try:
        ours = _with_special(backend_of(file, special if once else None), made, once)
        why = _why_not(ours.backend_tokenizer, theirs, file, pieces, special)
    except ValueError as error:
        why = str(error)
    if why is None:
        return ours
    found = theirs.encode(text, add_special_tokens=False).tokens
    saved = f"{Path(path).name}-tokenizer"
    raise ModelError(
        f"tokenizer: there is no {TOKENIZER} in {path}, and of {file.name} transformers makes a "
        f"{type(made).__name__} with other tokens than SentencePiece's: {len(found)} against "
        f"{len(pieces(text))} for {text!r}. Nor is it converted here: {why}. If the model was "
        "trained with what transformers makes, save that and name the new folder under "
        f'`tokenizer`: `python -c "from transformers import AutoTokenizer as T; '
        f'T.from_pretrained({path!r}).save_pretrained({saved!r})"`; if not, make a {TOKENIZER} '
        "with the package tokenizers."
    )


def _why_not(
    ours: Tokenizer,
    theirs: Tokenizer,
    file: Path,
    pieces: Callable[[str], list[str]],
    special: Collection[str],
) -> str | None:
    """Why a tokenizer is not what SentencePiece and a class of transformers say; None where it is.

    Args:
        ours: of the SentencePiece model.
        theirs: of the class, which says how pieces are numbered and what special tokens are.
        file: the SentencePiece model.
        pieces: that SentencePiece makes of a text.
        special: tokens that are found in texts.
    """
    if (text := _text_that_differs(ours, pieces)) is not None:
        n_ours = len(ours.encode(text, add_special_tokens=False).ids)
        return f"that would give {n_ours} tokens against {len(pieces(text))} for {text!r}"
    vocabulary = theirs.get_vocab()
    for piece, number in vocabulary_of(file).items():
        if vocabulary.get(piece) != number:
            return f"the class gives {piece!r} the id {vocabulary.get(piece)}, and not {number}"
    spaced = pieces("a")[0].startswith(SPACE)
    for token in special:
        if _spaced_behind(ours, [token]) != (spaced and _spaced_behind(theirs, [token])):
            return f"that would put a space elsewhere in {f'{token}a'!r}"
    return None


def _special(tokenizer: Any) -> list[str]:
    """The tokens that are found in texts as they are, in order of their ids."""
    return [token.content for _, token in sorted(tokenizer.added_tokens_decoder.items())]


def _spaced_behind(backend: Tokenizer, special: Collection[str]) -> bool:
    """Whether a space is put behind special tokens, as before a text."""
    tokens = [backend.encode(f"{token}a", add_special_tokens=False).tokens for token in special]
    return any(found[1].startswith(SPACE) for found in tokens if len(found) > 1)


def _converted(path: str, slow: Any, file: Path | None) -> PreTrainedTokenizerFast:
    """A tokenizer that is computed in Python as one that knows where in a text its tokens are."""
    from transformers.convert_slow_tokenizer import convert_slow_tokenizer

    special = _special(slow)
    probes = [*_PROBES, *(f"x{token}a{token}" for token in special)]
    makers: list[Callable[[], Any]] = [lambda: _with_special(convert_slow_tokenizer(slow), slow)]
    if file is not None:
        makers.append(lambda: _with_special(backend_of(file), slow))
        makers.append(lambda: _with_special(backend_of(file, special), slow, once=True))
    for make in makers:
        try:
            tokenizer = make()
            encodings = faithful(tokenizer.backend_tokenizer).encode_batch(probes)
        except Exception:  # whatever a converter meets in a class that it is not of
            continue
        if all(
            list(slow.encode(text)) == one.ids for text, one in zip(probes, encodings, strict=True)
        ):
            return tokenizer
    raise ModelError(
        f"tokenizer: the one of {path} is a {type(slow).__name__}, which is computed in Python and "
        "does not say where in a text its tokens are, and it cannot be converted to one that does "
        f"and has the same tokens. {_REMEDY}"
    )


def _with_special(backend: Tokenizer, like: Any, once: bool = False) -> PreTrainedTokenizerFast:
    """A tokenizer with the added tokens of another, and what that one puts around texts.

    Args:
        backend: the tokenizer.
        like: the other.
        once: its normalizer is for whole texts, and leaves tokens as they are; any other may put a
            space before all that it gets, and gets what is between tokens.
    """
    from tokenizers import AddedToken
    from transformers import PreTrainedTokenizerFast

    for _, token in sorted(like.added_tokens_decoder.items()):
        how = {"lstrip": token.lstrip, "rstrip": token.rstrip, "special": token.special}
        backend.add_tokens([AddedToken(token.content, normalized=once, **how)])
    if (theirs := getattr(like, "backend_tokenizer", None)) is not None:
        backend.post_processor = theirs.post_processor
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=getattr(like, "chat_template", None),
        **like.special_tokens_map,
    )


def _text_that_differs(backend: Tokenizer, pieces: Callable[[str], list[str]]) -> str | None:
    """The first text of which a tokenizer makes other pieces than SentencePiece, if any."""
    for text in _PROBES:
        ids = backend.encode(text, add_special_tokens=False).ids
        # By their ids, since the name of what is unknown is sometimes the text that is.
        if [backend.id_to_token(token) for token in ids] != pieces(text):
            return text
    return None


def made_of_vocabulary(path: str, tokenizer: PreTrainedTokenizerFast) -> str | None:
    """Say what a tokenizer is where no tokenizer.json says so.

    Args:
        path: its folder.
        tokenizer: as it was loaded.
    """
    if (Path(path) / TOKENIZER).is_file():
        return None
    [empty] = encode(tokenizer, [""])
    leading = [repr(tokenizer.backend_tokenizer.id_to_token(token)) for token in empty.tokens]
    return (
        f"tokenizer: there is no {TOKENIZER} in {path}; the one that is made of its vocabulary "
        f"puts {', '.join(leading) or 'no token'} before a text. If the model was trained "
        f"otherwise, name a folder with its {TOKENIZER} under `tokenizer`."
    )


def rebuilt_otherwise(
    path: str, tokenizer: PreTrainedTokenizerFast, trust_remote_code: bool = False
) -> str | None:
    """Say where transformers makes another tokenizer of a folder than its tokenizer.json, if so.

    Args:
        path: the folder.
        tokenizer: as :func:`load_tokenizer` loads it.
        trust_remote_code: let the folder's own Python code run.
    """
    try:
        rebuilt = made_by_transformers(path, trust_remote_code)
    except Exception:  # code of the folder's own, or a class that cannot be built from its files
        return None
    backend = getattr(rebuilt, "backend_tokenizer", None)
    if backend is None:
        return None
    special = sorted({str(token) for token in rebuilt.added_tokens_decoder.values()})
    probes = [*_PROBES, *(f"x{token}{token} {token}y" for token in special)]
    try:
        ours = [one.ids for one in faithful(tokenizer.backend_tokenizer).encode_batch(probes)]
    except Exception:  # it has no token for what it does not know; a text that it fails on is told
        return None
    try:
        theirs = [one.ids for one in faithful(backend).encode_batch(probes)]
    except Exception as error:
        return (
            f"tokenizer: transformers makes the one of {path} a {type(rebuilt).__name__}, which "
            f"cannot tokenise ({brief(error)}). That of tokenizer.json is used."
        )
    for text, one, other in zip(probes, ours, theirs, strict=True):
        if one != other:
            return (
                f"tokenizer: transformers makes the one of {path} a {type(rebuilt).__name__} with "
                f"other tokens than its tokenizer.json: {len(other)} against {len(one)} for "
                f"{text!r}. Those of tokenizer.json are used; if the model was trained with the "
                "others, save the rebuilt one into a folder and name that under `tokenizer`."
            )
    return None
