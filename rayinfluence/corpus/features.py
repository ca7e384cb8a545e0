"""Rows of features: numbers in the place of texts, and bits of float32 in that of token ids.

A row is a sequence of its features and, last, its target, which is predicted from the others. So
shards, splits, digests and ledgers are those of texts.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from rayinfluence.storage.digest import digest

#: Characters of a value in a message.
_SHOWN = 40


@dataclass(frozen=True)
class Features:
    """What stands in the place of a tokenizer.

    Attributes:
        columns: of the features, in the order in which the model takes them.
        target: the column of what is predicted.
        n_features: numbers of a row; more than columns where one holds a list.
    """

    columns: tuple[str, ...]
    target: str
    n_features: int

    @property
    def digest(self) -> str:
        """Of what decides the numbers of a document."""
        return digest(["features", list(self.columns), self.target, self.n_features])

    @property
    def names(self) -> list[str]:
        """Of the numbers of a row, with the target's last."""
        columns = list(self.columns)
        if len(columns) != self.n_features:  # some column holds a list
            columns = [f"feature {place}" for place in range(self.n_features)]
        return [*columns, self.target]

    def tokens(self, text: str) -> list[int] | str:
        """The numbers of a row as bits of float32, or why it has not as many as are needed.

        Args:
            text: as :func:`text_of` writes it.
        """
        features, target = json.loads(text)
        if isinstance(features, dict):
            if features.keys() != set(self.columns):
                other = sorted(features.keys() ^ set(self.columns))[0]
                if other in self.columns:
                    return f"its features lack {other!r}"
                return f"corpus.feature_columns has no column {other!r}"
            features = [features[column] for column in self.columns]
        found = numbers_of(features)
        if len(found) != self.n_features:
            return f"it has {len(found)} features, and the model takes {self.n_features}"
        return [bits(number) for number in [*found, target]]

    def texts(self, tokens: Sequence[int]) -> list[str]:
        """What each number says, in words; joined, the row."""
        ends = [" "] * (len(tokens) - 2) + [" -> ", ""]
        return [
            f"{name}={float_of(token):.7g}{end}"
            for name, token, end in zip(self.names, tokens, ends, strict=True)
        ]


def text_of(features: Mapping[str, Any], target: Any) -> str:
    """A row as a text; of its values :func:`why_no_numbers` has found nothing wrong."""
    by_column = {name: numbers_of([value]) for name, value in features.items()}
    return json.dumps([by_column, float(target)])


def n_features_of(text: str) -> int:
    """Features of a row, as :func:`text_of` writes it by column."""
    return len(numbers_of(list(json.loads(text)[0].values())))


def numbers_of(values: Sequence[Any]) -> list[float]:
    """Values, and those in lists among them, as numbers one after the other."""
    return [
        float(one) for value in values for one in (value if isinstance(value, list) else [value])
    ]


def why_no_numbers(value: Any) -> str | None:
    """Why a value is no number that float32 holds, or no list of such; None where it is."""
    if isinstance(value, list):
        if not value:
            return "is an empty list"
        return next((f"holds what {why}" for one in value if (why := _why_none(one))), None)
    return _why_none(value)


def _why_none(value: Any) -> str | None:
    if value is None or value == "":
        return "is missing"
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
            raise ValueError
        number = float(value)
        if math.isfinite(number):
            bits(number)
            return None
    except (ValueError, OverflowError):
        pass
    return f"is {str(value)[:_SHOWN]!r}, and no finite number that float32 holds"


def why_no_class(number: float, n_classes: int) -> str | None:
    """Why a number is no class of as many; None where it is."""
    if number.is_integer() and 0 <= number < n_classes:
        return None
    return f"is {number:g}, and the model's classes are 0 to {n_classes - 1}"


def bits(number: float) -> int:
    """A number, rounded to float32, as the integer of its bits.

    Raises:
        OverflowError: it is too large.
    """
    found: int = struct.unpack("<i", struct.pack("<f", number))[0]
    return found


def float_of(token: int) -> float:
    """The number that :func:`bits` was given, as float32 has it."""
    found: float = struct.unpack("<f", struct.pack("<i", token))[0]
    return found
