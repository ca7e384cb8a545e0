"""What a run directory holds, from the directory alone: no cluster, no model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from rayinfluence.corpus.corpus import Corpus
from rayinfluence.corpus.manifest import CorpusManifest
from rayinfluence.dataflow import layout
from rayinfluence.dataflow.kinds import is_cleaned, tops
from rayinfluence.dataflow.stage_names import (
    CORPUS,
    COVARIANCE,
    FACTORS,
    MOMENTS,
    RESULTS,
    SCAN,
    STAGES,
)
from rayinfluence.storage.results import MANIFEST as RESULTS_MANIFEST
from rayinfluence.storage.results import SCHEMA_VERSION, read_results_manifest
from rayinfluence.storage.results.manifest import schema_version, version_manifest
from rayinfluence.storage.store import Listed, Store, read_json

#: Between two partials, what is no pause: so many seconds, and so many of the usual gap.
_PAUSE_SECONDS, _PAUSES = 60.0, 10


@dataclass(frozen=True)
class StageStatus:
    """How far a stage is: units done of units planned (None: nothing says how many).

    ``stage`` is what it makes, one of `stage_names.STAGES`.
    """

    stage: str
    done: int
    total: int | None
    remark: str
    #: Units that were given up, until the run is begun again.
    aside: int = 0
    #: When something of it was written last, in epoch seconds, where that is known.
    written: float | None = None
    #: Which of several it is, by the name of its folder.
    fingerprint: str | None = None
    #: Whether the current results are made of it; None where there are none, or nothing tells.
    in_results: bool | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing is left to wait for."""
        return self.total in (None, self.done + self.aside)


@dataclass(frozen=True)
class RunStatus:
    """How far each stage of a run is, and the run as a whole.

    Attributes:
        stages: a line for each, and for each of several fits and banks.
        written: when a run wrote something there last, in epoch seconds; None where it has not,
            or the storage does not tell.
        n_objects: how many objects runs have written there.
        has_results: whether there are results, and nothing is unfinished that is newer.
        current: whether those are of the configuration that the directory was used with last.
    """

    stages: list[StageStatus]
    written: float | None
    n_objects: int
    has_results: bool
    current: bool

    def is_done(self, now: float, patience: float) -> bool:
        """Whether nothing is left to wait for.

        Where the results are of other settings the run may be under way with new ones, or it may
        have found that these give the same results; then it writes nothing, and after a time
        without a write it counts as done.
        """
        silent = self.written is None or now - self.written >= patience
        return self.has_results and (self.current or silent)


def status(store: Store, corpus_store: Store) -> RunStatus:
    """How far a run is.

    Args:
        store: the run directory.
        corpus_store: where its shards are.
    """
    found: list[StageStatus] = []
    manifest = CorpusManifest.read(corpus_store)
    corpus = Corpus(corpus_store, manifest) if manifest else None
    if corpus is None:
        found.append(StageStatus(CORPUS, 0, None, "no corpus yet"))
    else:
        remark = f"{corpus.size}{corpus.manifest.left_out_rows}"
        n_shards = len(corpus.manifest.shards)
        found.append(StageStatus(CORPUS, n_shards, n_shards, remark))
    objects = store.list()
    listed = objects.get(RESULTS_MANIFEST)
    there = read_results_manifest(store, any_schema=True) if listed else None
    made_of = None if there is None else _made_of(there)
    found += _factors(store, objects, made_of)
    found += _banks(store, objects, corpus, made_of)
    results, finished = None, None
    if listed and there is not None:
        if (theirs := schema_version(there)) != SCHEMA_VERSION:
            remark = f"of schema version {theirs}, which is not read any more: run again"
            found.append(StageStatus(RESULTS, 0, 1, remark))
        else:
            results, finished = there, listed.modified
            found = [_left_behind(stage, finished) for stage in found]
            current = str(results.get("fingerprint"))
            remark = f"{current[:12]}: {_asked(results)}; current"
            found.append(StageStatus(RESULTS, 1, 1, remark, fingerprint=current, in_results=True))
            found += _earlier(store, objects, current)
    else:
        found.append(StageStatus(RESULTS, 0, 1, "not written yet"))
    ours = [listed for key, listed in objects.items() if _moves(key)]
    if not f"{corpus_store.url}/".startswith(f"{store.url}/"):
        ours += corpus_store.list().values()
    return RunStatus(
        found,
        _latest(ours),
        len(ours),
        results is not None and all(one.ended or _is_older(one, finished) for one in found),
        results is None or _same_settings(store, objects, results),
    )


def _asked(results: Mapping[str, Any]) -> str:
    return f"{len(results['queries'])} queries; {', '.join(results['methods'])}"


def _earlier(store: Store, objects: Mapping[str, Listed], current: str) -> list[StageStatus]:
    """Results of other settings or queries, which are there beside the current ones."""
    found = []
    for fingerprint, keys in _by_fingerprint(objects, layout.RESULTS).items():
        if fingerprint == current or layout.MANIFEST not in keys:
            continue
        manifest = read_json(store, version_manifest(fingerprint))
        asked = _asked(manifest) if {"queries", "methods"} <= manifest.keys() else "unreadable"
        remark = f"{fingerprint[:12]}: {asked}; earlier"
        found.append(StageStatus(RESULTS, 1, 1, remark, fingerprint=fingerprint, in_results=False))
    return found


def _made_of(results: Mapping[str, Any]) -> set[str]:
    """Fingerprints of the factors and banks that results are made of."""
    factors = (results.get(key) or {} for key in ("factors", "diagonal_factors"))
    banks = (bank for one in results["methods"].values() for bank in one.get("banks") or ())
    return {*banks, *(one["fingerprint"] for one in factors if "fingerprint" in one)}


def _use(fingerprint: str, made_of: set[str] | None) -> tuple[str, bool | None]:
    """What to say of factors or a bank beside the current results."""
    if made_of is None:
        return "", None
    is_used = fingerprint in made_of
    return ("" if is_used else "; not in the current results"), is_used


def _moves(key: str) -> bool:
    """Whether it is of the work itself: reports and plans are written whenever they are asked."""
    pages = (f"{layout.REPORT_PAGES}/", f"{layout.VIEWS}/")
    is_report = key == layout.REPORT or key.startswith(pages)
    return key == layout.CONFIG or (is_cleaned(key) and not is_report)


def _is_older(stage: StageStatus, finished: float | None) -> bool:
    return stage.written is not None and finished is not None and stage.written < finished


def _left_behind(stage: StageStatus, finished: float | None) -> StageStatus:
    """A stage, with a remark where it was given up and results were made without it."""
    if stage.ended or not _is_older(stage, finished):
        return stage
    return replace(stage, remark=f"{stage.remark}; left behind, older than the results")


def _same_settings(store: Store, objects: Mapping[str, Listed], results: Mapping[str, Any]) -> bool:
    """Whether results are of the configuration that the run directory was used with last."""
    if layout.CONFIG not in objects:
        return True
    theirs, ours = results.get("config", {}), read_json(store, layout.CONFIG)
    same = {"run", "runner", "storage"}  # where the work is done, and not what is done
    return {key: value for key, value in ours.items() if key not in same} == {
        key: value for key, value in theirs.items() if key not in same
    }


def _latest(listed: Iterable[Listed]) -> float | None:
    return max((one.modified for one in listed if one.modified is not None), default=None)


def clean(store: Store, stages: list[str]) -> int:
    """Delete what some stages wrote; returns the number of objects."""
    n_deleted = 0
    for top in (top for stage in stages for top in tops(stage)):
        names = _below(store, top)
        ours = [name for name in names if is_cleaned(name)]
        # Whole where nothing else is in it, so that no empty folder is left on a disk.
        n_deleted += sum(store.delete(name) for name in ([top] if ours == names else ours))
    return n_deleted


def holds_a_run(store: Store) -> bool:
    """Whether a stage has written something there."""
    all_of_them = (top for stage in STAGES for top in tops(stage))
    return any(is_cleaned(name) for top in all_of_them for name in _below(store, top))


def _below(store: Store, prefix: str) -> list[str]:
    """The names directly below a prefix, or the key that it is."""
    names = ("/".join(key.split("/")[:2]) for key in store.list(prefix))
    return list(dict.fromkeys(names)) or ([prefix] if store.exists(prefix) else [])


def _factors(
    store: Store, objects: Mapping[str, Listed], made_of: set[str] | None
) -> list[StageStatus]:
    found = []
    for fingerprint, keys in _by_fingerprint(objects, layout.FACTORS).items():
        if layout.MANIFEST in keys:
            manifest = read_json(store / layout.FACTORS / fingerprint, layout.MANIFEST)
            what = "diagonal " if layout.factor_kind(manifest["parts"]) == "diagonal" else ""
            remark = f"{fingerprint[:12]}: {what}fitted on {manifest['n_sequences']:,} sequences"
            error = manifest["rounds"][-1]["error"]
            if error is not None:
                remark += f", scores of a held-out set within {error:.1%}"
            said, is_used = _use(fingerprint, made_of)
            which: dict[str, Any] = {"fingerprint": fingerprint, "in_results": is_used}
            found.append(StageStatus(FACTORS, 1, 1, f"{remark}{said}", **which))
        else:
            lanes = layout.lanes_of_rounds(keys)
            # A diagonal is made of moments alone.
            first = COVARIANCE if any(stage == COVARIANCE for stage, _ in lanes) else MOMENTS
            number = max((n for stage, n in lanes if stage == first), default=0)
            sums = [(COVARIANCE, "covariance"), (MOMENTS, "moment")]
            counts = [f"{lanes[s, number]} {name}" for s, name in sums if s in (first, MOMENTS)]
            remark = (
                f"{fingerprint[:12]}: {' and '.join(counts)} lanes committed of sample {number}, "
                "each twice the one before"
            )
            written = _latest(keys.values())
            which = {"fingerprint": fingerprint, "in_results": _use(fingerprint, made_of)[1]}
            found.append(StageStatus(FACTORS, 0, 1, remark, written=written, **which))
    return found or [StageStatus(FACTORS, 0, None, "not begun")]


def _banks(
    store: Store,
    objects: Mapping[str, Listed],
    corpus: Corpus | None,
    made_of: set[str] | None,
) -> list[StageStatus]:
    found = []
    for fingerprint, keys in _by_fingerprint(objects, layout.BANKS).items():
        if layout.MANIFEST not in keys:
            continue
        manifest = read_json(store / layout.BANKS / fingerprint, layout.MANIFEST)
        tokens = _planned(store / layout.BANKS / fingerprint, keys, manifest, corpus)
        partials = {
            layout.named(key): listed
            for key, listed in keys.items()
            if key.startswith(f"{layout.PARTIALS}/")
        }
        done = [digest for digest in partials if digest in tokens]
        rate = _rate(done, partials, tokens)
        n_queries = len(manifest["query_digests"])
        use = manifest["base"].get("use")
        what = f" for the {use}" if use else ""
        how = _how(manifest["base"].get("queries") or {})
        remark = f"{fingerprint[:12]}: {n_queries} queries by {manifest['method']}{how}{what}{rate}"
        aside = {layout.named(key) for key in keys if key.startswith(f"{layout.ASIDE}/")}
        if missing := len(aside & tokens.keys() - partials.keys()):
            remark += f", {missing} set aside"
        written = _latest(keys.values())
        said, is_used = _use(fingerprint, made_of)
        counted = len(done), len(tokens) or None, f"{remark}{said}"
        found.append(StageStatus(SCAN, *counted, missing, written, fingerprint, is_used))
    return found or [StageStatus(SCAN, 0, None, "not begun")]


def _how(queries: Mapping[str, Any]) -> str:
    """With which factors a bank's queries were made, at which rank and damping, and refined by."""
    factors, damping = queries.get("factors"), queries.get("damping")
    parts = []
    if factors:
        parts.append(f"factors {factors[:12]}")
    if queries.get("damping_scale") is not None or damping is not None:
        scale = queries.get("damping_scale")
        parts.append(f"damping {damping:g}" if damping is not None else f"damping_scale {scale:g}")
    if queries.get("rank") is not None:
        parts.append(f"rank {queries['rank']}")
    if queries.get("solver") is not None:
        parts.append(f"solver {queries['solver']['name']}")
    return f" ({', '.join(parts)})" if parts else ""


def _planned(
    bank: Store, keys: Mapping[str, Listed], manifest: Mapping[str, Any], corpus: Corpus | None
) -> dict[str, int]:
    """The splits that a bank is scanned with, by their digests, and tokens of each."""
    if layout.SPLITS in keys:
        return {digest: int(n) for digest, n in read_json(bank, layout.SPLITS).items()}
    splits = corpus.plan(manifest["base"]["numerics"]["split_tokens"]) if corpus else []
    return {split.digest: split.n_tokens for split in splits}


def _by_fingerprint(objects: Mapping[str, Listed], folder: str) -> dict[str, dict[str, Listed]]:
    """What is in each fingerprint's folder of a folder, by its key there."""
    found: dict[str, dict[str, Listed]] = {}
    for key, listed in sorted(objects.items()):
        top, _, rest = key.partition("/")
        fingerprint, _, inside = rest.partition("/")
        if top == folder and layout.FINGERPRINT.fullmatch(fingerprint):
            found.setdefault(fingerprint, {})[inside] = listed
    return found


def _rate(done: list[str], partials: dict[str, Listed], tokens: dict[str, int]) -> str:
    """Tokens per second since the work began last, where the times of partials are known."""
    times = sorted(
        (modified, tokens[digest])
        for digest in done
        if (modified := partials[digest].modified) is not None
    )
    left = sum(tokens.values()) - sum(n_tokens for _, n_tokens in times)
    times = times[_pause([time for time, _ in times]) :]
    if len(times) < 2 or times[-1][0] <= times[0][0]:
        return ""
    rate = sum(n_tokens for _, n_tokens in times[1:]) / (times[-1][0] - times[0][0])
    return f", {rate:,.0f} tokens/s" + (f", about {left / rate:,.0f} s left" if left > 0 else "")


def _pause(times: Sequence[float]) -> int:
    """After how many times the last pause was: a gap that is no pace of the work's own."""
    gaps = [later - earlier for earlier, later in pairwise(times)]
    if not gaps:
        return 0
    usual = sorted(gaps)[len(gaps) // 2]
    pauses = [n for n, gap in enumerate(gaps, 1) if gap > max(_PAUSE_SECONDS, _PAUSES * usual)]
    return pauses[-1] if pauses else 0
