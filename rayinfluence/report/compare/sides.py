"""What is beside what: results with a letter, what they are of, and in what they differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rayinfluence.report.part import filtered, selected
from rayinfluence.report.text import count, one_line, shorten
from rayinfluence.storage.metadata import as_text
from rayinfluence.storage.results import Results
from rayinfluence.text import without_credentials

_WIDTH = 80
#: Of a configuration, what decides no score, and addresses of what is told by its digest.
_NO_MATTER = ("run", "runner", "storage", "batch_tokens", "model", "tokenizer", "queries")
#: Of a corpus its digest, and addresses, of which it tells whether they matter.
_CORPUS, _OF_CORPUS = "corpus.fingerprint", ("corpus.documents", "corpus.path")
#: What is told besides the configuration, by where it is in a manifest.
_FACTS = (
    ("model.digest", "model", "digest"),
    ("model.commit", "model", "commit"),
    ("model.architecture", "model", "architecture"),
    ("model.parameters", "model", "parameters"),
    ("tokenizer.digest", "tokenizer", "digest"),
    (_CORPUS, "corpus", "fingerprint"),
    ("corpus.sequences", None, "n_sequences"),
    ("factors.fingerprint", "factors", "fingerprint"),
)


@dataclass(frozen=True)
class Side:
    """Results by one method.

    Attributes:
        letter: A, B, ...; what tables call it.
        place: the run directory, as it was named.
        results: what was found.
    """

    letter: str
    place: str
    results: Results

    @property
    def fingerprint(self) -> str:
        """Of the results."""
        return str(self.results.manifest.get("fingerprint") or "")

    @property
    def tokenizer(self) -> str:
        """The digest of what made its tokens."""
        return str((self.results.manifest.get("tokenizer") or {}).get("digest") or "")

    @property
    def title(self) -> str:
        """What it is, on a line."""
        model = self.results.manifest.get("model") or {}
        path = without_credentials(str(model.get("path") or "")).rstrip("/").rsplit("/", 1)[-1]
        size = model.get("parameters")
        said = [
            f"{shorten(without_credentials(self.place), _WIDTH, keep='end')}",
            f"by {one_line(self.results.method)}",
            f"model {one_line(path)}" + (f" ({count(size)} parameters)" if size else ""),
            f"results {one_line(self.fingerprint)}" if self.fingerprint else "",
        ]
        return ", ".join(filter(None, said))

    @property
    def notes(self) -> list[str]:
        """What holds of it alone: what was not scored, and what is not in its lists."""
        aside = self.results.manifest.get("set_aside") or []
        said = [
            f"it lacks {count(len(aside))} splits of its corpus" if aside else "",
            selected(self.results.manifest),
            filtered(self.results),
            *(
                str((self.results.manifest.get(view) or {}).get("sentence") or "")
                for view in ("without", "layers")
            ),
        ]
        return [f"{self.letter}: {one}" for one in said if one]

    def to_json(self) -> dict[str, Any]:
        """It as plain values."""
        model = self.results.manifest.get("model") or {}
        return {
            "side": self.letter,
            "run": without_credentials(self.place),
            "results": self.fingerprint,
            "method": self.results.method,
            "model": without_credentials(str(model.get("path") or "")),
            "parameters": model.get("parameters"),
            "sequences": self.results.manifest.get("n_sequences"),
            "without": (self.results.manifest.get("without") or {}).get("condition"),
            "notes": self.notes,
        }


@dataclass(frozen=True)
class Difference:
    """A setting, or another fact, that is not the same on all sides.

    Attributes:
        key: of the configuration, or what else it is.
        values: of each side, in their order; empty where it has none.
    """

    key: str
    values: tuple[str, ...]


def differences(sides: Sequence[Side]) -> list[Difference]:
    """In what sides differ, by their manifests: settings that decide scores, and what was read."""
    known = [dict(_facts(side.results)) for side in sides]
    keys = dict.fromkeys(key for one in known for key in one)
    rows = [Difference(key, tuple(one.get(key, "") for one in known)) for key in keys]
    found = {row.key: row for row in rows if len(set(row.values)) > 1}
    if all(_CORPUS in one for one in known) and _CORPUS not in found:
        # The same documents may have been read from elsewhere.
        found = {key: row for key, row in found.items() if key not in _OF_CORPUS}
    return list(found.values())


def _facts(results: Results) -> Iterator[tuple[str, str]]:
    manifest = results.manifest
    yield "method", results.method
    for name, section, key in _FACTS:
        held = manifest if section is None else manifest.get(section) or {}
        if held.get(key) is not None:
            yield name, _shown(held[key])
    config = manifest.get("config") or {}
    yield from _leaves({k: v for k, v in config.items() if k not in _NO_MATTER}, "")


def _leaves(values: Mapping[str, Any], before: str) -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        name = f"{before}{key}"
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{name}.")
        elif value is not None:
            yield name, _shown(value)


def _shown(value: Any) -> str:
    return without_credentials(as_text(value))
