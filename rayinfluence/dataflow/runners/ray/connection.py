"""Joining a Ray cluster or starting a local one, and leaving the driver's process as it was."""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import threading
from typing import Any

import ray

from rayinfluence.config_places import RunnerConfig
from rayinfluence.errors import ConfigError
from rayinfluence.guest import same_python_draws

#: Loggers of which only errors are for our users.
_QUIET = ("ray.data", "ray._private.authentication")
#: Variables that are Ray's, and the debugger that it puts in the place of Python's.
_VARIABLES = ("RAY_", "PYTHONBREAKPOINT")
#: What a Ray that we start finds in its environment.
_LOCAL = {
    # It would print an error for each pooled actor that could not be restarted after the driver's
    # death: there is no driver to restart it for.
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    # A corpus may be private: it reports to nobody.
    "RAY_USAGE_STATS_ENABLED": "0",
}


class Connection:
    """This process's part in a Ray: joined, or started, and left as it was found.

    The cluster that is named, or that this job runs in, is joined; else a local Ray is started. Of
    a Ray that the caller has started nothing is touched.

    Args:
        config: the cluster's address, and how many replicas a local Ray has to have room for.

    Raises:
        ConfigError: Ray cannot be reached or started.
    """

    def __init__(self, config: RunnerConfig) -> None:
        self._ours = not ray.is_initialized()
        if not self._ours:
            return
        self._levels = {name: logging.getLogger(name).level for name in _loggers()}
        self._on_term = signal.getsignal(signal.SIGTERM)
        self._dumps_faults = faulthandler.is_enabled()
        self._environment = {k: v for k, v in os.environ.items() if k.startswith(_VARIABLES)}
        address = config.address or os.environ.get("RAY_ADDRESS")
        for name in _QUIET:
            logging.getLogger(name).setLevel(logging.ERROR)
        quiet: dict[str, Any] = {"logging_level": "error", "log_to_driver": False}
        try:
            if address:
                where: dict[str, Any] = {"address": address}
            else:
                for name, value in _LOCAL.items():
                    os.environ.setdefault(name, value)
                # One CPU more than replicas, or tasks beside them would wait forever.
                # "local": not the cluster of somebody else that happens to run on this machine.
                cpus = config.most_actors + 1
                where = {"address": "local", "num_cpus": cpus, "include_dashboard": False}
            with same_python_draws():
                ray.init(**where, **quiet)
        except Exception as error:  # connection, authentication, start-up: they share no base
            self._restore()
            raise ConfigError(
                f"runner: Ray cannot be reached at {address or 'a local start'}: {error}. Check "
                "the address and the token (RAY_AUTH_MODE, RAY_AUTH_TOKEN_PATH), or set "
                "`runner: {name: inline}`."
            ) from error

    def close(self) -> None:
        """End a Ray that was started, or leave the one that was joined."""
        if self._ours:
            with same_python_draws():
                ray.shutdown()
            self._restore()

    def _restore(self) -> None:
        for name in _loggers():
            logging.getLogger(name).setLevel(self._levels.get(name, logging.NOTSET))
        # Where nothing has set a handler from Python there is none that could be put back.
        if self._on_term is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._on_term)
        if not self._dumps_faults:
            faulthandler.disable()
        # Ray sets variables of its own as well.
        for name in [name for name in os.environ if name.startswith(_VARIABLES)]:
            if name in self._environment:
                os.environ[name] = self._environment[name]
            else:
                del os.environ[name]


def _loggers() -> list[str]:
    """Ray's loggers that there are."""
    known = [*logging.root.manager.loggerDict, *_QUIET]
    return [name for name in known if name.split(".")[0] == "ray"]
