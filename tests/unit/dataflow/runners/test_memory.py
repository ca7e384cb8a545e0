"""Memory of freed tensors stays with the process that computes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rayinfluence.testing import tiny_run

pytestmark = pytest.mark.runs

#: Calls us.
GUEST = """
import sys
import rayinfluence
rayinfluence.run(rayinfluence.RunConfig.load(sys.argv[1]))
"""
#: Blocks as a batch's, in a thread as an actor's; prints how many pages later rounds fault in.
ROUNDS = """
import resource, sys, threading
import numpy as np
from rayinfluence.dataflow.runners.memory import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt

def work():
    for repeat in range(6):
        before = faults()
        kept = [np.ones(2**17 * mebibytes) for mebibytes in (8, 2, 8, 1, 16, 8, 8)]
        del kept
    print(faults() - before)

if sys.argv[1] == "keep":
    keep_freed_memory()
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="settings of glibc")
def test_freed_memory_is_not_faulted_in_again() -> None:
    """Where a threshold is set, glibc does not learn how large blocks are, and gives them back."""
    environment = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "131072"}
    given_back, kept = (
        int(
            subprocess.run(
                [sys.executable, "-c", ROUNDS, how],
                env=environment,
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for how in ("give back", "keep")
    )
    assert given_back > 1000
    assert kept < 100


#: Frees blocks as large as a caller's data may be; prints how many MiB of them stay.
FREES = """
import numpy as np

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4 // 1024

before = resident()
kept = [np.ones(2**21) for _ in range(50)]
del kept
print(resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="settings of glibc")
def test_a_caller_keeps_the_allocator_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(tiny_run(tmp_path).model_dump_json())
    command = [sys.executable, "-c", GUEST + FREES, str(tmp_path / "run.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout.splitlines()[-1]) < 100
