"""A partial on disk: the same bytes each time, and nothing but what was written is ever read."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from pathlib import Path

import numpy as np
import pytest

from rayinfluence.dataflow.compute.partial import Partial
from rayinfluence.dataflow.compute.quarantine import Bad
from rayinfluence.dataflow.jobs.partials import read_partial, write_partial
from rayinfluence.errors import DamagedError, StorageError
from rayinfluence.influence import groups
from rayinfluence.influence.groups import GroupSums
from rayinfluence.influence.tails import Tails
from rayinfluence.influence.topk import TopK
from rayinfluence.storage.store import Store

KEY = "partial.safetensors"


def make_partial(seed: int = 0, n: int = 4) -> Partial:
    generator = np.random.default_rng(seed)
    scores, ids = generator.standard_normal((n, 2)), np.arange(n) + 10 * seed
    scores[0, 1] = np.nan
    sources = [["web", "books"][i % 2] for i in range(n)]
    return Partial(
        TopK.of(scores, ids, 3),
        TopK.of(-scores, ids, 3),
        GroupSums.of(scores, {"source": sources}),
        Tails.of(scores),
        n_sequences=n,
        n_tokens=9 * n,
        quarantine={40 + seed: Bad("too long"), 10 * seed: Bad("overflow", (1,), 9)},
    )


def same(left: Partial, right: Partial) -> bool:
    def arrays(partial: Partial) -> list[np.ndarray]:
        tops = (partial.proponents, partial.opponents)
        return [
            *(part for t in tops for part in (t.scores_QK, t.ids_QK)),
            *partial.groups.sums_3Q.values(),
            *partial.groups.lacking_Q.values(),
            *vars(partial.tails).values(),
        ]

    return (
        all(
            a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
            for a, b in zip(arrays(left), arrays(right), strict=True)
        )
        and left.groups.counts == right.groups.counts
        and list(left.groups.sums_3Q) == list(right.groups.sums_3Q)
        and list(left.groups.lacking_Q) == list(right.groups.lacking_Q)
        and (left.n_sequences, left.n_tokens) == (right.n_sequences, right.n_tokens)
        and left.quarantine == right.quarantine
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


@pytest.mark.parametrize(
    "partial",
    [make_partial(), make_partial(1, 1), Partial.empty(2, 3), Partial.empty(0, 3)],
    ids=["some", "one sequence", "empty", "no query"],
)
def test_the_round_trip_keeps_every_byte(store: Store, partial: Partial) -> None:
    write_partial(partial, store, KEY)
    again = read_partial(store, KEY)
    assert same(again, partial)
    before = store.read(KEY)
    write_partial(again, store, KEY)
    assert store.read(KEY) == before


def test_a_merged_partial_survives_the_round_trip(store: Store) -> None:
    merged = reduce(
        Partial.merge, [make_partial(0), Partial.empty(2, 3), make_partial(1), make_partial(2)]
    )
    assert (merged.n_sequences, merged.n_tokens) == (12, 108)
    assert sorted(merged.quarantine) == [0, 10, 20, 40, 41, 42]
    assert merged.scored(0) == (12, 108)
    assert merged.scored(1) == (9, 81)
    assert merged.groups.counts == {("source", "books"): 6, ("source", "web"): 6}
    write_partial(merged, store, KEY)
    assert same(read_partial(store, KEY), merged)


def test_groups_that_were_bounded_survive_it_in_any_tree(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole scores: merged by one worker, or by several that write in between."""
    monkeypatch.setattr(groups, "MOST_VALUES", 3)

    def of(seed: int) -> Partial:
        scores = np.random.default_rng(seed).integers(-9, 9, (6, 2)).astype(float)
        urls = [f"u{(7 * seed + i) % 11}" for i in range(6)]
        sums = GroupSums.of(scores, {"url": urls})
        return replace(Partial.empty(2, 3), groups=sums)

    def stored(partial: Partial) -> Partial:
        write_partial(partial, store, KEY)
        return read_partial(store, KEY)

    parts = [of(seed) for seed in range(8)]
    line = reduce(Partial.merge, parts).groups
    pairs = [stored(a.merge(b)) for a, b in zip(parts[::2], parts[1::2], strict=True)]
    tree = stored(stored(pairs[0].merge(pairs[1])).merge(pairs[2].merge(pairs[3]))).groups
    assert len(line.counts) == 4
    assert sum(line.counts.values()) == 48
    assert tree.counts == line.counts
    for group, sums in line.sums_3Q.items():
        assert np.array_equal(tree.sums_3Q[group], sums)


def refused_or_same(store: Store, body: bytes, partial: Partial) -> bool:
    """Whether an altered object is refused; if it is read, it must say what the original says."""
    Path(store.url, KEY).write_bytes(body)
    try:
        read = read_partial(store, KEY)
    except DamagedError:
        return True
    assert same(read, partial), "an altered partial was read as another one"
    return False


def test_no_altered_byte_goes_unnoticed(store: Store) -> None:
    """Wherever it is: in the length, the layout, our header, the checksums or the tensors."""
    partial = make_partial()
    write_partial(partial, store, KEY)
    body = store.read(KEY)
    for place in range(len(body)):
        altered = bytearray(body)
        altered[place] ^= (0x0F, 0x20, 0x01, 0x80)[place % 4]
        try:
            refused = refused_or_same(store, bytes(altered), partial)
        except Exception as error:
            around = bytes(altered[max(0, place - 30) : place + 30])
            raise AssertionError(f"byte {place} of {len(body)}, in {around!r}") from error
        # The format pads its header with spaces; another white space there changes nothing.
        assert refused or body[place : place + 1] == b" ", f"byte {place} of {len(body)}"


def test_a_tensor_relabelled_as_another_type_is_refused(store: Store) -> None:
    """Its bytes still match their checksum, but say other numbers."""
    partial = make_partial()
    write_partial(partial, store, KEY)
    body = store.read(KEY)
    assert b'"dtype":"F64"' in body
    assert refused_or_same(store, body.replace(b'"dtype":"F64"', b'"dtype":"I64"', 1), partial)


def test_a_tensor_of_another_shape_is_refused(store: Store) -> None:
    partial = make_partial()
    write_partial(partial, store, KEY)
    body = store.read(KEY)
    assert b'"shape":[2,3]' in body
    assert refused_or_same(store, body.replace(b'"shape":[2,3]', b'"shape":[3,2]', 1), partial)


def test_a_truncated_partial_is_refused(store: Store) -> None:
    partial = make_partial()
    write_partial(partial, store, KEY)
    body = store.read(KEY)
    for length in [*range(0, len(body) - 100, 7), *range(len(body) - 100, len(body))]:
        assert refused_or_same(store, body[:length], partial), f"cut at {length} of {len(body)}"


@pytest.mark.parametrize("place", [("s", "another"), ("another", KEY)], ids=["split", "bank"])
def test_a_partial_of_something_else_is_refused(store: Store, place: tuple[str, str]) -> None:
    bank = store / "s"
    write_partial(make_partial(), bank, KEY)
    folder, key = place
    (store / folder).write(key, bank.read(KEY))
    with pytest.raises(DamagedError, match=rf"it is s/{KEY} and not {folder}/{key}"):
        read_partial(store / folder, key)


def test_a_missing_partial_is_not_a_damaged_one(store: Store) -> None:
    with pytest.raises(StorageError, match="does not exist") as caught:
        read_partial(store, KEY)
    assert not isinstance(caught.value, DamagedError)
