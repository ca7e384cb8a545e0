"""The exception tree, with exit codes. A message says what is wrong, where, and what to do.

* RayInfluenceError, 1: the root.
* ConfigError, 2: a key, value or file named in the configuration.
* InputError, 4: what the user gave us to read; CorpusError (documents and shards), QueryError,
  ChatError (messages) and ModelError (weights, tokenizer, tracked modules).
* StorageError, 5: an object that cannot be read or written; DamagedError (an object of ours that is
  cut short, altered or about something else).
* NumericsError, 6: a value that is not finite, a matrix that cannot be decomposed.
* StageError, 7: a worker failed in a way nobody foresaw.

Exit code 0 is success, 3 a scan that is complete but for some splits (INCOMPLETE), and 130 an
interrupt from the keyboard. Errors cross process borders, so each is rebuilt from its one
argument, the message.
"""

from __future__ import annotations

from typing import ClassVar

from rayinfluence.text import visible, without_credentials

#: The exit code of a scan that is complete but for some splits.
INCOMPLETE = 3


def brief(error: BaseException) -> str:
    """What a library's error says, on one line: how it begins, and the advice that it ends with."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 400 else f"{text[:250]} ... {text[-140:]}"


class RayInfluenceError(Exception):
    """The root: catch this to catch everything that rayinfluence raises on purpose.

    Args:
        message: a sentence; what acts on a terminal in names that it quotes is shown instead, and
            credentials in addresses are hidden.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(visible(without_credentials(message)))


class ConfigError(RayInfluenceError):
    """The configuration is wrong: an unknown key, a value out of range, a missing file."""

    exit_code = 2


class InputError(RayInfluenceError):
    """Something the user gave us to read cannot be used."""

    exit_code = 4


class CorpusError(InputError):
    """Documents or shards cannot be read, or do not belong to this corpus."""


class BadFileError(CorpusError):
    """A file of documents is damaged or cut short; others need not be."""


class QueryError(InputError):
    """A query is malformed, empty, repeated or too long."""


class ChatError(InputError):
    """Messages are not made a text by the tokenizer's chat template."""


class ModelError(InputError):
    """Model, tokenizer and tracked modules do not fit together."""


class StorageError(RayInfluenceError):
    """An object is missing or cannot be read or written."""

    exit_code = 5


class DamagedError(StorageError):
    """An object that a stage committed is damaged or about something else; it is made again."""


class NumericsError(RayInfluenceError):
    """A number that has to be finite is not, or a matrix cannot be decomposed."""

    exit_code = 6


class StageError(RayInfluenceError):
    """A worker failed unexpectedly; the message carries its traceback."""

    exit_code = 7


class IncompleteResultsWarning(UserWarning):
    """Results that were returned or read lack some of the corpus's splits."""
