"""The allocator's settings for processes that compute and are ours: actors, and the command line.

Whoever calls us from Python is host in his process, and keeps his allocator as it was.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import sys
from collections.abc import Callable

#: Numbers of glibc's <malloc.h>, and the largest values that it takes.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_LARGEST = 2**31 - 1
_HALF_A_HEAP = 2**25
_HEAP = 2**26


def prepare_process() -> None:
    """Set this process up for computing alone, before torch has allocated anything.

    Large pages where the system grants them on request: a scan holds the activations of many
    batches, and faulting small pages in took a sixth of its time in a virtual machine.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Keep the memory of freed tensors for the next ones, in this process and from now on.

    In Ray's workers glibc was seen to give what a batch freed back to the system, and the next one
    to fault its activations in again, 230,000 small pages in a split of 16,384 tokens: a fifth of
    an actor's time (docs/benchmarks.md). Blocks of more than 32 MiB are mapped one by one all the
    same; their pages are large ones. Where there is no glibc, nothing is done.

    Source of the numbers and their limits: mallopt(3).
    """
    mallopt = _of_glibc("mallopt")
    mallopt(_M_MMAP_THRESHOLD, _HALF_A_HEAP)
    mallopt(_M_TRIM_THRESHOLD, _LARGEST)
    mallopt(_M_TOP_PAD, _HEAP)


def give_back_freed_memory() -> None:
    """Let the system have what is free of this process's heap: more than a batch was freed.

    Source: malloc_trim(3). Where there is no glibc, nothing is done.
    """
    _of_glibc("malloc_trim")(0)


def reset_peak() -> None:
    """Let the highest memory of this process begin anew.

    Source: proc(5), clear_refs. Where there is no such file, nothing is done.
    """
    give_back_freed_memory()
    with contextlib.suppress(OSError):
        file = os.open("/proc/self/clear_refs", os.O_WRONLY)
        os.write(file, b"5")
        os.close(file)


def peak_bytes() -> int | None:
    """The highest resident memory of this process since then; None where that is not known.

    Source: proc(5), VmHWM, in kibibytes.
    """
    with contextlib.suppress(OSError):
        file = os.open("/proc/self/status", os.O_RDONLY)
        told = os.read(file, 1 << 16).decode()
        os.close(file)
        if found := re.search(r"^VmHWM:\s+(\d+) kB$", told, re.MULTILINE):
            return 1024 * int(found[1])
    return None


def _of_glibc(name: str) -> Callable[..., object]:
    found = getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
    return found or (lambda *_: None)
