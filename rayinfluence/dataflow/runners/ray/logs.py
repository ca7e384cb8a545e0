"""What workers log: JSON lines with the run's name, in the log files of Ray's workers."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

from rayinfluence.text import visible_line

#: What every record of logging has; the rest is what a call has added.
_PLAIN = {*vars(logging.makeLogRecord({})), "message", "asctime"}


class JsonLines(logging.Formatter):
    """Records as JSON objects.

    Args:
        run: the run's name.
    """

    def __init__(self, run: str) -> None:
        super().__init__()
        self._run = run

    def format(self, record: logging.LogRecord) -> str:
        """One line: time (UTC), level, logger, run, message, and what the call has added."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "run": self._run,
            "message": record.getMessage(),
        }
        line |= {key: value for key, value in vars(record).items() if key not in _PLAIN}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return visible_line(json.dumps(line, ensure_ascii=False, default=str))


def log_as_json(run: str) -> None:
    """Let this process's loggers of rayinfluence write JSON lines to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(run))
    ours = logging.getLogger("rayinfluence")
    ours.handlers[:] = [handler]
    ours.setLevel(logging.INFO)
    ours.propagate = False
