"""Near copies among the sequences of a corpus: MinHash signatures, bands, groups (Broder 1997).

Two sequences are alike by the Jaccard index of their shingles, runs of :data:`SHINGLE` tokens; the
share of equal numbers in two MinHash signatures estimates it. Sequences that have a whole band of
their signatures in common are compared (Leskovec et al., Mining of Massive Datasets, 3.4), and
whoever is alike is in one group: A and C, too, where B is like both.

N is sequences, B bands, R numbers of a band.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rayinfluence.corpus.corpus import Corpus
from rayinfluence.corpus.shards import sequences_of
from rayinfluence.corpus.stored import AT_ONCE
from rayinfluence.errors import ConfigError
from rayinfluence.storage.digest import digest_bytes

#: Tokens of a shingle; a shorter sequence is one shingle.
SHINGLE = 5
#: Pairs of a Jaccard index s are compared with probability 1 - (1 - s^R)^B.
BANDS, ROWS = 32, 4
_SEED = 1
_ODD, _SHIFT = np.uint64(0x9E3779B97F4A7C15), np.uint64(29)

SCHEMA = pa.schema(
    [
        pa.field("sequence_id", pa.int64()),
        pa.field("group", pa.int64()),  # the least sequence id in it
        pa.field("copy_of", pa.int64()),  # the least id of a sequence with the very same tokens
    ]
)


@dataclass(frozen=True)
class Copies:
    """Which sequences of a corpus are alike; arrays have a place for each sequence.

    Attributes:
        ids_N: of the sequences, ascending.
        groups_N: places of the first of their groups.
        firsts_N: places of the first with the very same tokens.
    """

    ids_N: NDArray[np.int64]
    groups_N: NDArray[np.int64]
    firsts_N: NDArray[np.int64]

    @property
    def table(self) -> pa.Table:
        """Sequences that are in a group with others, by id."""
        sizes = np.bincount(self.groups_N, minlength=len(self.ids_N))
        kept = np.flatnonzero(sizes[self.groups_N] > 1)
        places = kept, self.groups_N[kept], self.firsts_N[kept]
        return pa.table([self.ids_N[one] for one in places], schema=SCHEMA)

    @property
    def counts(self) -> dict[str, int]:
        """How many there are; exact copies are counted without the first of each."""
        sizes = np.bincount(self.groups_N, minlength=len(self.ids_N))
        return {
            "sequences": len(self.ids_N),
            "groups": int((sizes > 1).sum()),
            "in_groups": int(sizes[sizes > 1].sum()),
            "largest_group": int(sizes.max(initial=0)),
            "exact_copies": int((self.firsts_N != np.arange(len(self.ids_N))).sum()),
        }

    def largest(self, count: int) -> Iterator[NDArray[np.int64]]:
        """The ids of the largest groups' sequences."""
        sizes = np.bincount(self.groups_N, minlength=len(self.ids_N))
        for first in np.lexsort((np.arange(len(sizes)), -sizes))[:count]:
            if sizes[first] > 1:
                yield self.ids_N[self.groups_N == first]


def refuse_no_minhash() -> None:
    """See that there is what makes signatures.

    Raises:
        ConfigError: there is not.
    """
    try:
        import rensa  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "near copies are found with rensa, which is not here: pip install "
            "'rayinfluence[copies]'."
        ) from error


def copies_in(corpus: Corpus, threshold: float) -> Copies:
    """Groups of sequences that are alike; the corpus is read once.

    Signatures, 512 bytes a sequence, are in a temporary file. In memory there are some row groups,
    about 120 bytes a sequence, and the signatures of those that share one band.

    Args:
        corpus: whose sequences are compared.
        threshold: the least estimated Jaccard index of two sequences that are alike.

    Raises:
        ConfigError: rensa is not here.
        CorpusError: a shard is damaged.
    """
    refuse_no_minhash()
    n = corpus.n_sequences
    ids_N, contents_N = np.empty(n, np.int64), np.empty(n, "V16")
    with tempfile.TemporaryFile() as file:
        # Bands apart, so that one of them is read alone.
        signatures_BNR = np.memmap(file, np.uint32, "w+", shape=(BANDS, n, ROWS))
        start = 0
        for split in corpus.plan(AT_ONCE):
            table = corpus.read(split)
            sequences, end = sequences_of(table), start + len(table)
            ids_N[start:end] = table["sequence_id"].to_numpy()
            contents_N[start:end] = [bytes.fromhex(digest_bytes(s.tobytes())) for s in sequences]
            made = signatures(sequences).reshape(-1, BANDS, ROWS)
            signatures_BNR[:, start:end] = made.transpose(1, 0, 2)
            start = end
        firsts_N = _firsts(contents_N)
        groups_N = grouped(signatures_BNR, firsts_N, threshold)
    return Copies(ids_N, groups_N, firsts_N)


def signatures(sequences: Sequence[NDArray[Any]]) -> NDArray[np.uint32]:
    """The MinHash signatures of sequences of tokens [N, B * R]."""
    from rensa import RMinHash

    shingles = [np.unique(_shingles(one)) for one in sequences]
    offsets = np.cumsum([0, *map(len, shingles)]).astype(np.uint64)
    made = RMinHash.digest_matrix_from_flat_token_hashes(
        np.concatenate(shingles), offsets, BANDS * ROWS, _SEED
    )
    return np.array(made.to_rows(), dtype=np.uint32)


def grouped(
    signatures_BNR: NDArray[np.uint32], firsts_N: NDArray[np.int64], threshold: float
) -> NDArray[np.int64]:
    """The first of each sequence's group.

    Args:
        signatures_BNR: of sequences.
        firsts_N: places of exact copies' firsts, which alone are compared.
        threshold: the least share of equal numbers in two signatures that are alike.
    """
    groups_N = firsts_N.copy()
    compared = np.unique(firsts_N)
    for band_NR in signatures_BNR:
        for bucket in _buckets(np.asarray(band_NR)[compared]):
            _join(groups_N, compared[bucket], signatures_BNR, threshold)
    while not np.array_equal(further := groups_N[groups_N], groups_N):
        groups_N = further
    return groups_N


def _join(
    groups_N: NDArray[np.int64],
    places: NDArray[np.int64],
    signatures_BNR: NDArray[np.uint32],
    threshold: float,
) -> None:
    """Put those of a bucket that are alike into one group.

    Each is compared with those before it that were like none before them: of thousands that are
    all alike, with one.
    """
    if len({_root(groups_N, place) for place in places.tolist()}) == 1:
        return
    leaders: list[int] = []
    made = np.asarray(signatures_BNR[:, places])
    for number, place in enumerate(places.tolist()):
        share = (made[:, leaders] == made[:, number : number + 1]).mean(axis=(0, 2))
        alike = [leaders[one] for one in np.flatnonzero(share >= threshold)]
        for other in alike:
            low, high = sorted(_root(groups_N, one) for one in (int(places[other]), place))
            groups_N[high] = low
        if not alike:
            leaders.append(number)


def _root(groups_N: NDArray[np.int64], place: int) -> int:
    while (above := int(groups_N[place])) != place:
        groups_N[place] = groups_N[above]
        place = above
    return place


def _buckets(band_NR: NDArray[np.uint32]) -> Iterator[NDArray[np.int64]]:
    """Places, ascending, of sequences with the same numbers in a band, where there are several."""
    keys = np.ascontiguousarray(band_NR).view(np.dtype(("V", band_NR.itemsize * ROWS))).ravel()
    order = np.argsort(keys, kind="stable")
    changes = np.flatnonzero(keys[order][1:] != keys[order][:-1]) + 1
    starts, ends = np.r_[0, changes], np.r_[changes, len(keys)]
    for start, end in zip(starts[ends - starts > 1], ends[ends - starts > 1], strict=True):
        yield order[start:end]


def _firsts(contents_N: NDArray[np.void]) -> NDArray[np.int64]:
    """The place of the first of those with the same content."""
    _, first, inverse = np.unique(contents_N, return_index=True, return_inverse=True)
    found: NDArray[np.int64] = first[inverse].astype(np.int64)
    return found


def _shingles(tokens: NDArray[Any]) -> NDArray[np.uint64]:
    """A number for each run of SHINGLE tokens."""
    length = min(SHINGLE, len(tokens))
    wide = tokens.astype(np.uint64)
    n = len(tokens) - length + 1
    found = np.zeros(n, np.uint64)
    for place in range(length):
        found = (found + wide[place : place + n] + np.uint64(1)) * _ODD
        found ^= found >> _SHIFT
    return found
