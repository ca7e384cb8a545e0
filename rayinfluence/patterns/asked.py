"""Questions as people write them, in words, and in tokens once there is a tokenizer.

{"prompt": "The keys to the cabinet", "right": " are", "wrong": " is"}       of a causal model
{"text": "The keys to the cabinet [MASK] here.", "right": "are", "wrong": "is"}    of a masked one
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayinfluence.corpus.query_lines import json_rows
from rayinfluence.corpus.tokenizer import encode, token_texts, with_ending
from rayinfluence.errors import ConfigError, QueryError
from rayinfluence.objective_kinds import MASKED
from rayinfluence.patterns.question import Question
from rayinfluence.report.text import shorten
from rayinfluence.storage.store import Store

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

#: Where a text stands, by whether the model is a masked one.
_KEY = {False: "prompt", True: "text"}
#: Bytes of the name of a file.
_LONGEST_NAME = 255
#: Characters of what was given that are shown.
_SHOWN = 80
_EXAMPLE = '{"prompt": ..., "right": ..., "wrong": ...}'


@dataclass(frozen=True)
class Asked:
    """A question in words.

    Attributes:
        query_id: what it is called by.
        text: before what is asked for, or with a mask in its place.
        is_prompt: which of the two.
        right, wrong: that the model should, and should not, say there.
        place: where it was read, for messages.
    """

    query_id: str
    text: str
    is_prompt: bool
    right: str
    wrong: str
    place: str


def read_asked(given: Sequence[str], opened: Callable[[str], Store]) -> list[Asked]:
    """The questions of a command: each is an object of JSON, or a file of them.

    Args:
        given: as above.
        opened: gives the file of a path or an address.

    Raises:
        ConfigError: a file is not there.
        QueryError: something is no question, or an id comes twice.
    """
    found: list[Asked] = []
    for text in given:
        if text.lstrip()[:1] in ("{", "["):
            rows = json_rows(text.encode(), "--query")
        else:
            file = opened(text)
            if not _is_file(file, text):
                raise ConfigError(
                    f"--query {shorten(text, _SHOWN)}: it is no file; name a file of JSON lines, "
                    f"or give a question itself, such as '{_EXAMPLE}'."
                )
            rows = json_rows(file.read(""), file.url)
        for place, row in rows:
            found.append(_asked(row, place, f"q{len(found) + 1}"))
    if not found:
        raise QueryError(f"--query: there is no question; write one as {_EXAMPLE}.")
    places: dict[str, str] = {}
    for one in found:
        if one.query_id in places:
            raise QueryError(
                f"{one.place}: query_id {one.query_id!r} is already that of "
                f"{places[one.query_id]}; give each question an id of its own."
            )
        places[one.query_id] = one.place
    return found


def _is_file(file: Store, text: str) -> bool:
    """Whether there is a file; a text that is too long for the name of one is none."""
    if "://" in text:
        return file.exists("")
    if any(len(part.encode()) > _LONGEST_NAME for part in Path(text).parts):
        return False
    return file.exists("") and not Path(text).is_dir()


def _asked(row: Any, place: str, name: str) -> Asked:
    if not isinstance(row, dict):
        raise QueryError(f"{place} is no object; write a question as {_EXAMPLE}.")
    texts = [key for key in _KEY.values() if key in row]
    missing = [key for key in ("right", "wrong") if key not in row]
    if len(texts) != 1 or missing:
        raise QueryError(
            f"{place} has the keys {', '.join(map(repr, row)) or 'none'}; a question has right, "
            "wrong, and either prompt (what comes before them) or text (with a mask in their "
            "place)."
        )
    for key in (*texts, "right", "wrong", "query_id"):
        if not isinstance(row.get(key, ""), str):
            raise QueryError(f"{place}: {key} must be a text, and is {json.dumps(row[key])}.")
    return Asked(
        row.get("query_id", name), row[texts[0]], "prompt" in row, row["right"], row["wrong"], place
    )


@dataclass(frozen=True)
class Asking:
    """What makes tokens of questions, for one model.

    Attributes:
        tokenizer: of the model.
        kind: of its objective.
        n_positions: that the model has; None where it does not say.
        n_tokens: that it embeds.
    """

    tokenizer: PreTrainedTokenizerFast
    kind: str
    n_positions: int | None
    n_tokens: int

    def question(self, asked: Asked) -> Question:
        """A question in tokens.

        Raises:
            QueryError: it is of the other kind of model, has no mask or several, is longer than the
                model's positions, or what is right or wrong is no single token.
        """
        masked = self.kind == MASKED
        if asked.is_prompt == masked:
            wanted = "text, with a mask in the place that is asked about" if masked else "prompt"
            raise QueryError(
                f"{asked.place}: the model is a {self.kind} language model; give the question a "
                f"{wanted}, in the place of its {_KEY[not masked]}."
            )
        [encoding] = encode(self.tokenizer, [asked.text])
        after = len(encoding.ending) if masked else 0
        tokens = with_ending(encoding).tokens if masked else encoding.tokens
        n = len(tokens)
        if n == 0:
            raise QueryError(f"{asked.place}: the {_KEY[masked]} holds no token.")
        if self.n_positions is not None and n > self.n_positions:
            raise QueryError(
                f"{asked.place}: the {_KEY[masked]} has {n:,} tokens, and the model has "
                f"{self.n_positions:,} positions. Shorten it."
            )
        position = self._masked_place(asked, tokens) if masked else n - 1
        one = self._alone if masked else self._following
        right, wrong = (one(asked, key, tokens) for key in ("right", "wrong"))
        if right == wrong:
            raise QueryError(
                f"{asked.place}: right and wrong are the same token; nothing is asked between them."
            )
        outside = max([*tokens, right, wrong])
        if outside >= self.n_tokens:
            raise QueryError(
                f"{asked.place}: the tokenizer makes a token {outside} of it, and the model embeds "
                f"{self.n_tokens:,}. Name the model's own tokenizer: `--set tokenizer=...`."
            )
        kept = [
            at < encoding.n_added or at >= n - after or (masked and at == position)
            for at in range(n)
        ]
        texts = token_texts(self.tokenizer, tokens)
        return Question(
            asked.query_id,
            tuple(tokens),
            tuple(texts),
            position,
            right,
            wrong,
            tuple(kept),
            asked.right,
            asked.wrong,
        )

    def _masked_place(self, asked: Asked, tokens: Sequence[int]) -> int:
        mask = self.tokenizer.mask_token
        if mask is None:
            raise QueryError(
                f"{asked.place}: the tokenizer of the model has no mask, in whose place something "
                "could be asked for. Name the model's own: `--set tokenizer=...`."
            )
        places = [at for at, token in enumerate(tokens) if token == self.tokenizer.mask_token_id]
        if len(places) != 1:
            many = f"has {len(places)} masks" if places else "has no mask"
            raise QueryError(
                f"{asked.place}: the text {many}; write {mask} once, where right or wrong is asked "
                "for."
            )
        return places[0]

    def _alone(self, asked: Asked, key: str, _tokens: Sequence[int]) -> int:
        """The token that a word is by itself."""
        word = getattr(asked, key)
        [encoding] = encode(self.tokenizer, [word])
        return self._single(asked, key, encoding.tokens[encoding.n_added :], "")

    def _following(self, asked: Asked, key: str, tokens: Sequence[int]) -> int:
        """The token that a word is after the prompt."""
        [encoding] = encode(self.tokenizer, [asked.text + getattr(asked, key)])
        n = len(tokens)
        rest = encoding.tokens[n:] if encoding.tokens[:n] == list(tokens) else []
        return self._single(asked, key, rest, " after the prompt; mostly it begins with a space")

    def _single(self, asked: Asked, key: str, tokens: Sequence[int], where: str) -> int:
        word = getattr(asked, key)
        if len(tokens) != 1:
            made = (
                " (it is " + ", ".join(map(repr, token_texts(self.tokenizer, tokens))) + ")"
                if tokens
                else ""
            )
            raise QueryError(
                f"{asked.place}: {key} must be one token, and {word!r} is not{where}{made}. Take "
                "another word."
            )
        if tokens[0] == self.tokenizer.unk_token_id:
            raise QueryError(
                f"{asked.place}: the tokenizer does not know {word!r}, which is asked for as {key}."
            )
        return tokens[0]
