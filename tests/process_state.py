"""What a library might change of the process that it is a guest in, and what it did change."""

import faulthandler
import locale
import logging
import os
import random
import signal
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

State = dict[str, Any]


def state() -> State:
    """Of this process; of numpy, torch and transformers, where they are imported."""
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    found: State = {
        "cwd": str(Path.cwd()),
        "sys.path": list(sys.path),
        "hooks": [sys.excepthook, sys.unraisablehook, sys.displayhook, threading.excepthook],
        "random": random.getstate(),
        "locale": locale.setlocale(locale.LC_ALL),
        "recursion": sys.getrecursionlimit(),
        "faulthandler": faulthandler.is_enabled(),
        "records": [logging.getLogRecordFactory(), logging.getLoggerClass(), logging.root.disabled],
        "showwarning": warnings.showwarning,
        "warnings": [str(one) for one in warnings.filters],
    }
    found |= {f"environment {name}": value for name, value in os.environ.items()}
    found |= {f"signal {one.name}": signal.getsignal(one) for one in signal.Signals}
    found |= {
        f"logger {one.name}": [one.level, one.propagate, one.disabled, one.handlers[:]]
        for one in loggers
        if isinstance(one, logging.Logger)
    }
    return found | _of_libraries()


def _of_libraries() -> State:
    found: State = {}
    if (numpy := sys.modules.get("numpy")) is not None:
        found["numpy.random"] = str(numpy.random.get_state(legacy=False))
        found["numpy.errors"] = numpy.geterr()
        found["numpy.printing"] = numpy.get_printoptions()
    if (torch := sys.modules.get("torch")) is not None:
        found |= {
            "torch.random": torch.get_rng_state().tolist(),
            "torch.threads": [torch.get_num_threads(), torch.get_num_interop_threads()],
            "torch.defaults": [torch.get_default_dtype(), torch.get_default_device()],
            "torch.deterministic": [
                torch.are_deterministic_algorithms_enabled(),
                torch.is_deterministic_algorithms_warn_only_enabled(),
                torch.utils.deterministic.fill_uninitialized_memory,
            ],
            "torch.gradients": [torch.is_grad_enabled(), torch.is_anomaly_enabled()],
            "torch.precision": [
                torch.get_float32_matmul_precision(),
                torch.backends.cuda.matmul.allow_tf32,
                torch.backends.cudnn.allow_tf32,
                torch.backends.cudnn.benchmark,
                torch.backends.cudnn.deterministic,
            ],
            "torch.sharing": torch.multiprocessing.get_sharing_strategy(),
        }
    if "transformers" in sys.modules:
        from transformers.utils import logging as theirs

        found["transformers"] = [theirs.get_verbosity(), theirs.is_progress_bar_enabled()]
    return found


def changed(before: State, after: State, imported: bool = False) -> dict[str, str]:
    """What is not as it was; loggers are only those that there were.

    Args:
        before: the process as it was.
        after: as it is.
        imported: whether libraries were imported since, which bring filters of warnings along.
    """
    news = {
        key: f"{_short(before, key)} -> {_short(after, key)}"
        for key in before.keys() | {one for one in after if one.startswith("environment ")}
        if before.get(key) != after.get(key)
    }
    if imported and set(before["warnings"]) <= set(after["warnings"]):
        news.pop("warnings", None)
    return dict(sorted(news.items()))


def _short(values: State, key: str) -> str:
    return str(values.get(key, "nothing"))[-100:]
