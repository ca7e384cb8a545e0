"""The tokenize stage: files of documents that the corpus lacks become shards at its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from rayinfluence.corpus.corpus import MANIFEST, CorpusManifest
from rayinfluence.corpus.documents import file_digest
from rayinfluence.corpus.files import Found
from rayinfluence.corpus.tokenize import FileReport, ShardRecord, TokenizeSettings, tokenize_file
from rayinfluence.corpus.tokenizer import tokenizer_digest
from rayinfluence.dataflow.runners.base import Runner
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.errors import CorpusError
from rayinfluence.storage.digest import differences
from rayinfluence.storage.store import Store

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

#: More rows that are no documents than this share end the stage.
BAD_DOCUMENTS_LIMIT = 0.01
#: For the progress alone: bytes of a file that become one token, roughly.
_BYTES_PER_TOKEN = 4


@dataclass(frozen=True)
class Pending:
    """A file that is to be tokenised, and all that it needs to be done elsewhere."""

    file: Store
    digest: str
    corpus: Store
    tokenizer: PreTrainedTokenizerFast
    settings: TokenizeSettings

    def tokenize(
        self, advance: Callable[[int], None] = lambda tokens: None
    ) -> tuple[list[ShardRecord], FileReport]:
        """Write the file's shards."""
        return tokenize_file(
            self.file, self.digest, self.tokenizer, self.settings, self.corpus.write, advance
        )


def tokenize_files(
    runner: Callable[[], Runner],
    documents: Found,
    store: Store,
    tokenizer: PreTrainedTokenizerFast,
    settings: TokenizeSettings,
    progress: ProgressLog,
) -> None:
    """Tokenise the files that the corpus lacks, and append their shards to its manifest.

    A file is known by its content; one whose address, size and time are as recorded is not read
    again to find out. One file is tokenised here, several are tokenised side by side. Where another
    process tokenises into the same corpus, each file is appended by the first that has it done.

    Raises:
        CorpusError: the corpus was made otherwise or holds other files, or more than 1 % of a
            file's rows are no documents.
    """
    empty = CorpusManifest(tokenizer_digest(tokenizer), settings, (), (), documents.left_out)
    manifest = _current(store, empty) or empty
    pending = [
        Pending(file, digest, store, tokenizer, settings)
        for file, digest in _missing(documents.files, manifest, store)
    ]
    if not pending:
        return
    with progress.stage(
        "tokenize", sum(p.file.info().size for p in pending) // _BYTES_PER_TOKEN
    ) as stage:
        if len(pending) == 1:
            outcomes = iter([pending[0].tokenize(stage.advance)])
        else:
            outcomes = runner().tasks(Pending.tokenize, pending)
        for records, report in outcomes:
            _refuse_bad_documents(report)
            _append(store, empty, records, report)
            if len(pending) > 1:
                stage.advance(sum(g.n_tokens for r in records for g in r.row_groups))


def _current(store: Store, empty: CorpusManifest) -> CorpusManifest | None:
    """The manifest that is there, made with the same tokenizer and settings as an empty one."""
    manifest = CorpusManifest.read(store)
    if manifest is None:
        return None
    theirs, ours = (
        {"tokenizer": one.tokenizer, "corpus": asdict(one.settings)} for one in (manifest, empty)
    )
    if reasons := differences(ours, theirs):
        raise CorpusError(
            f"the corpus at {store.url} was tokenised with another tokenizer or other settings: "
            f"{'; '.join(reasons)}. Set the configuration back, give this one another "
            "`corpus.path`, or delete that folder."
        )
    return manifest


def _append(
    store: Store, empty: CorpusManifest, records: Sequence[ShardRecord], report: FileReport
) -> None:
    """Append a file's shards to the manifest as it is by now, unless it has them."""
    manifest = _current(store, empty)
    if manifest is None:
        if store.create(MANIFEST, empty.extended(records, [report]).to_json()):
            return
        manifest = _current(store, empty) or empty
    if (report.url, report.digest) not in {(f["url"], f["digest"]) for f in manifest.files}:
        seen = replace(manifest, left_out=empty.left_out)
        store.write(MANIFEST, seen.extended(records, [report]).to_json())


def _missing(
    files: Sequence[Store], manifest: CorpusManifest, store: Store
) -> list[tuple[Store, str]]:
    known = {
        (report["url"], report["size"], report["modified"]): report["digest"]
        for report in manifest.files
    }
    digests = []
    for file in files:
        about = file.info()
        digests.append(known.get((file.url, about.size, about.modified)) or file_digest(file))
    left: dict[str, list[Store]] = {}
    for file, digest in zip(files, digests, strict=True):
        left.setdefault(digest, []).append(file)
    for report in manifest.files:
        same = left.get(report["digest"])
        if not same:
            raise CorpusError(
                f"the corpus at {store.url} holds {report['url']}, which `corpus.documents` does "
                "not list (or it has changed). Shards are only ever appended: use another "
                "`corpus.path`."
            )
        # Of copies of a file the one that was tokenised; it may have been moved since.
        same.remove(next((file for file in same if file.url == report["url"]), same[0]))
    return [pair for pair in zip(files, digests, strict=True) if pair[0] in left[pair[1]]]


def _refuse_bad_documents(report: FileReport) -> None:
    total = report.documents + report.n_bad
    if report.n_bad > BAD_DOCUMENTS_LIMIT * total:
        first = report.bad[0]
        raise CorpusError(
            f"{report.n_bad} of {total} rows of {report.url} are not documents, more than "
            f"{BAD_DOCUMENTS_LIMIT:.0%}; the first is {first.place}: {first.reason}. Mend the "
            "file, or "
            "name its text column under corpus.text_column."
        )
