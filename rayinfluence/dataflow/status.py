"""What a run directory holds, from the directory alone: no cluster, no model."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rayinfluence.corpus.corpus import Corpus, CorpusManifest
from rayinfluence.storage.results import read_results_manifest
from rayinfluence.storage.store import Listed, Store, read_json

#: What ``clean`` can remove, and the prefixes of each.
STAGES = {
    "corpus": ("corpus/",),
    "factors": ("factors/", "preflight/", "models/"),
    "scan": ("queries/", "scan/"),
    "results": ("results/", "report.html", "stages.json"),
}
#: Names that a run writes below those. What is called otherwise is somebody else's: a user's
#: folders may well be named `models` or `queries`.
_OURS = re.compile(
    r"corpus/(manifest\.json|shards)|(factors|preflight|models|queries|scan)/[0-9a-f]{32}(\.json)?"
    r"|results/[^/]+\.(parquet|json)|report\.html|stages\.json"
)
_FINGERPRINT = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class StageStatus:
    """How far a stage is: units done of units planned (None: nothing says how many)."""

    stage: str
    done: int
    total: int | None
    remark: str
    #: Units that were given up, until the run is begun again.
    aside: int = 0

    @property
    def ended(self) -> bool:
        """Whether nothing is left to wait for."""
        return self.total in (None, self.done + self.aside)


def status(store: Store, corpus_store: Store) -> list[StageStatus]:
    """How far each stage of a run is.

    Args:
        store: the run directory.
        corpus_store: where its shards are.
    """
    found: list[StageStatus] = []
    manifest = CorpusManifest.read(corpus_store)
    corpus = Corpus(corpus_store, manifest) if manifest else None
    if corpus is None:
        found.append(StageStatus("tokenize", 0, None, "no corpus yet"))
    else:
        remark = f"{corpus.n_sequences:,} sequences, {corpus.n_tokens:,} tokens"
        n_shards = len(corpus.manifest.shards)
        found.append(StageStatus("tokenize", n_shards, n_shards, remark))
    objects = store.list()
    found += _factors(store, objects)
    found += _banks(store, objects, corpus)
    if "results/manifest.json" in objects:
        results = read_results_manifest(store)
        remark = f"{len(results['queries'])} queries; {', '.join(results['methods'])}"
        found.append(StageStatus("results", 1, 1, remark))
    else:
        found.append(StageStatus("results", 0, 1, "not written yet"))
    return found


def clean(store: Store, stages: list[str]) -> int:
    """Delete what some stages wrote; returns the number of objects."""
    n_deleted = 0
    for prefix in (prefix.rstrip("/") for stage in stages for prefix in STAGES[stage]):
        names = _below(store, prefix)
        ours = [name for name in names if _OURS.fullmatch(name)]
        # Whole where nothing else is in it, so that no empty folder is left on a disk.
        n_deleted += sum(store.delete(name) for name in ([prefix] if ours == names else ours))
    return n_deleted


def holds_a_run(store: Store) -> bool:
    """Whether a stage has written something there."""
    prefixes = (prefix.rstrip("/") for stage in STAGES.values() for prefix in stage)
    return any(_OURS.fullmatch(name) for prefix in prefixes for name in _below(store, prefix))


def is_cleaned(key: str) -> bool:
    """Whether a key of a run directory is of what :func:`clean` deletes, or is below that."""
    return _OURS.fullmatch("/".join(key.split("/")[:2])) is not None


def _below(store: Store, prefix: str) -> list[str]:
    """The names directly below a prefix, or the key that it is."""
    tops = ("/".join(key.split("/")[:2]) for key in store.list(prefix))
    return list(dict.fromkeys(tops)) or ([prefix] if store.exists(prefix) else [])


def _factors(store: Store, objects: dict[str, Listed]) -> list[StageStatus]:
    folders = {key.split("/")[1] for key in objects if key.startswith("factors/")}
    fingerprints = sorted(filter(_FINGERPRINT.fullmatch, folders))
    found = []
    for fingerprint in fingerprints:
        prefix = f"factors/{fingerprint}/"
        if f"{prefix}manifest.json" in objects:
            manifest = read_json(store, f"{prefix}manifest.json")
            remark = f"{fingerprint[:12]}: fitted on {manifest['n_sequences']:,} sequences"
            error = manifest["rounds"][-1]["error"]
            if error is not None:
                remark += f", scores of a probe set within {error:.1%}"
            found.append(StageStatus("fit", 1, 1, remark))
        else:
            rounds = [
                int(key.removeprefix(f"{prefix}covariance/round-").split("/")[0])
                for key in objects
                if key.startswith(f"{prefix}covariance/")
            ]
            number = max(rounds, default=0)
            lanes = [
                sum(
                    key.startswith(f"{prefix}{kind}/round-{number}/")
                    and key.endswith(".safetensors")  # a checkpoint is no lane
                    for key in objects
                )
                for kind in ("covariance", "moments")
            ]
            remark = (
                f"{fingerprint[:12]}: {lanes[0]} covariance and {lanes[1]} moment lanes committed "
                f"of sample {number}, each twice the one before"
            )
            found.append(StageStatus("fit", 0, 1, remark))
    return found or [StageStatus("fit", 0, 1, "not begun")]


def _banks(store: Store, objects: dict[str, Listed], corpus: Corpus | None) -> list[StageStatus]:
    found = []
    for key in sorted(objects):
        kind, _, rest = key.partition("/")
        fingerprint, _, name = rest.partition("/")
        if (kind, name) != ("scan", "manifest.json") or not _FINGERPRINT.fullmatch(fingerprint):
            continue
        manifest = read_json(store, key)
        splits = corpus.plan(manifest["base"]["numerics"]["split_tokens"]) if corpus else []
        tokens = {split.digest: split.n_tokens for split in splits}
        partials = {
            name.rsplit("/", 1)[1].split(".")[0]: listed
            for name, listed in objects.items()
            if name.startswith(f"scan/{fingerprint}/partials/")
        }
        done = [digest for digest in partials if digest in tokens]
        rate = _rate(done, partials, tokens)
        n_queries = len(manifest["query_digests"])
        remark = f"{fingerprint[:12]}: {n_queries} queries by {manifest['method']}{rate}"
        aside = {
            name.rsplit("/", 1)[1].split(".")[0]
            for name in objects
            if name.startswith(f"scan/{fingerprint}/aside/")
        }
        if missing := len(aside & tokens.keys() - partials.keys()):
            remark += f", {missing} set aside"
        found.append(StageStatus("scan", len(done), len(splits) or None, remark, missing))
    return found or [StageStatus("scan", 0, None, "not begun")]


def _rate(done: list[str], partials: dict[str, Listed], tokens: dict[str, int]) -> str:
    """Tokens per second between the first partial and the last, where their times are known."""
    times = sorted(
        (modified, tokens[digest])
        for digest in done
        if (modified := partials[digest].modified) is not None
    )
    if len(times) < 2 or times[-1][0] <= times[0][0]:
        return ""
    rate = sum(n_tokens for _, n_tokens in times[1:]) / (times[-1][0] - times[0][0])
    left = sum(tokens.values()) - sum(n_tokens for _, n_tokens in times)
    return f", {rate:,.0f} tokens/s" + (f", about {left / rate:,.0f} s left" if left > 0 else "")
