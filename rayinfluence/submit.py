"""Submitting a run to a Ray cluster: what the run is names the job, so a run is submitted once.

The submission id is a digest of the run directory and its server, of the configuration that decides
results, and of what the queries say, where they can be read.
Submitting again joins the job while it waits, runs, or has succeeded. A job that failed or was
stopped is submitted anew under the next number: Ray lets an id be used once, even when its job was
deleted.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import yaml

from rayinfluence.addresses import expanded, hub_address, may_be_on_a_hub, why_no_folder
from rayinfluence.config import RunConfig
from rayinfluence.config_file import values_of
from rayinfluence.corpus.query_files import read_queries
from rayinfluence.corpus.query_forms import Query
from rayinfluence.dataflow.places import run_config
from rayinfluence.errors import ConfigError, StageError, StorageError
from rayinfluence.guest import as_found
from rayinfluence.storage.digest import digest
from rayinfluence.storage.store import Store
from rayinfluence.text import without_credentials

#: How long a cluster that has just started may be without an agent that takes jobs.
_PATIENCE_SECONDS = 60.0
_POLL_SECONDS = 2.0
_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
#: Variables that Ray's client would obey instead of the address that it is given.
_OVERRIDES = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")

Say = Callable[[str], None]


class JobClient(Protocol):
    """What is used of ray.job_submission.JobSubmissionClient."""

    def submit_job(
        self,
        *,
        entrypoint: str,
        submission_id: str,
        runtime_env: dict[str, Any],
        metadata: dict[str, str],
    ) -> str:
        """Submit a job."""

    def get_job_info(self, job_id: str) -> Any:
        """State, message and exit code of a job."""

    def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        """What a job prints, from its beginning to its end."""


def run_id(config: RunConfig, queries: Sequence[Query] | None = None) -> str:
    """The submission id of a run: the same for the same results in the same run directory.

    Args:
        config: of which the server is a part, since two servers may have buckets of one name.
        queries: what the file says, or None where it cannot be read from here.
    """
    values = config.model_dump(exclude={"runner", "storage"})
    values["run"] = config.run.rstrip("/")
    values["endpoint_url"] = _server(config.storage.endpoint_url)
    values["queries"] = config.queries if queries is None else [asdict(one) for one in queries]
    return f"rayinfluence-{digest(values)[:16]}"


def _server(address: str | None) -> str:
    """An address in one spelling: scheme and host are the same in any case, a path is not."""
    scheme, mark, rest = (address or "").rstrip("/").partition("://")
    host, slash, path = rest.partition("/")
    return "".join((scheme.lower(), mark, host.lower(), slash, path))


def submit(
    place: str | Path,
    address: str,
    *,
    follow: bool,
    again: bool = False,
    new_run: bool = False,
    settings: Sequence[str] = (),
    say: Say = print,
    connect: Callable[[str], JobClient] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Submit a run, or join it where it was submitted before.

    Args:
        place: the run's YAML file, or its run directory; the configuration alone is sent.
        address: of the cluster's dashboard, http://host:8265.
        follow: print what the job prints until it ends.
        again: submit a run that has succeeded once more, since documents or the model's files have
            changed.
        new_run: begin anew beside what was run with other settings.
        settings: keys that are set over the configuration, such as ``scan.top=50``.
        say: prints a line.
        connect: makes a client for an address.
        sleep: waits for seconds.

    Returns:
        An exit code: the job's own when it has ended, else 0.

    Raises:
        ConfigError: the configuration is wrong, or cannot be meant for a cluster; or the cluster
            cannot be reached or refuses the token.
        QueryError: the queries can be read from here, and one of them is wrong.
        StageError: the cluster does not take the job, or the connection to it is lost.
    """
    config = _config(str(place), settings)
    _refuse_places(config)
    client = (connect or _connect)(address)
    queries = _queries(config)
    job, info = _latest(client, run_id(config, queries))
    state = _state(info)
    if info is None or state in ("FAILED", "STOPPED") or (again and state == "SUCCEEDED"):
        if info is not None:
            say(f"{job} has {state.lower()}: {info.message}")
            job = _next(job)
        _send(client, job, Path(place).name, config, new_run, sleep)
        say(f"{job} submitted to {without_credentials(address)}; it writes to {config.run}")
    else:
        say(f"{job} was submitted before: {state.lower()}")
        if state == "SUCCEEDED":
            unseen = config.queries is not None and queries is None
            what = (
                "documents or queries (which cannot be read from here)" if unseen else "documents"
            )
            say(f"--again submits it once more, for {what} that have changed since")
    if follow:
        _follow(client, job, say)
        info = _ended(client, job, sleep)
        say(f"{job} has {_state(info).lower()}")
        return _exit_code(info)
    return 0


def _config(place: str, settings: Sequence[str]) -> RunConfig:
    """The configuration with the paths that it has, as its file is not where the job runs."""
    if not Path(expanded(place)).is_file():
        return run_config(place, settings=settings)
    return RunConfig.parse(values_of(place), place, settings)


def _refuse_places(config: RunConfig) -> None:
    """A job runs in a folder of its own, on another machine, that goes when it ends."""
    folders = {
        "model": config.model,
        "base_model": config.base_model,
        "tokenizer": config.tokenizer,
    }
    for key, path in folders.items():
        if not path or hub_address(path):
            continue  # the job fetches it
        if why := why_no_folder(path):
            raise ConfigError(f"{key}: {why}")
        if not Path(path).is_absolute():
            hub = f"; hf://{path} would be fetched from a hub" if may_be_on_a_hub(path) else ""
            raise ConfigError(
                f"{key}: {path} is relative, and a submitted job has a working directory of its "
                "own. Models and tokenizers are read from folders: write the full path of one that "
                f"is on the cluster's nodes{hub}."
            )
    named = {
        "run": config.run,
        "queries": config.queries,
        "corpus.path": config.corpus.path,
        **{f"corpus.documents[{i}]": path for i, path in enumerate(config.corpus.documents)},
    }
    for key, path in named.items():
        if path and "://" not in path and not Path(path).is_absolute():
            raise ConfigError(
                f"{key}: {path} is relative, and a submitted job has a working directory of its "
                "own. Write an address such as s3://bucket/prefix, or a full path that is on the "
                "cluster's nodes."
            )


def _queries(config: RunConfig) -> list[Query] | None:
    """The queries, or None where only the cluster can read them."""
    if config.queries is None:
        return None
    try:
        return read_queries(Store(config.queries, config.storage.options(config.queries)))
    except StorageError:
        return None


def _connect(address: str) -> JobClient:
    # Nodes of 2.60 want a token; one is found in RAY_AUTH_TOKEN, in the file RAY_AUTH_TOKEN_PATH,
    # or where `ray get-auth-token` leaves it.
    places = (os.environ.get("RAY_AUTH_TOKEN"), os.environ.get("RAY_AUTH_TOKEN_PATH"))
    has_token = any(places) or (Path.home() / ".ray" / "auth_token").exists()
    # Ray reads the mode when it is imported, and never again.
    with as_found():
        if has_token:
            os.environ.setdefault("RAY_AUTH_MODE", "token")
        from ray.exceptions import AuthenticationError
        from ray.job_submission import JobSubmissionClient

    kept = {name: os.environ.pop(name) for name in _OVERRIDES if name in os.environ}
    try:
        client: JobClient = JobSubmissionClient(address)
    except AuthenticationError as error:
        raise ConfigError(
            f"{address} refuses this client: {str(error).splitlines()[0]}. Give it the cluster's "
            "token, as RAY_AUTH_TOKEN or in a file that RAY_AUTH_TOKEN_PATH names, with "
            "RAY_AUTH_MODE=token. On the head, `ray get-auth-token` prints it; with KubeRay it is "
            "in the Secret that has the RayCluster's name, under auth_token."
        ) from error
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"there is no Ray dashboard at {address}: {error} Check the address; it is the head's, "
            "with port 8265."
        ) from error
    finally:
        os.environ.update(kept)
    return client


def _latest(client: JobClient, first: str) -> tuple[str, Any]:
    """The last attempt at a run with its state, or the first's name and None."""
    job, info = first, _info(client, first)
    while info is not None and (later := _info(client, _next(job))) is not None:
        job, info = _next(job), later
    return job, info


def _next(job: str) -> str:
    """The id of the attempt after this one: rayinfluence-1f, rayinfluence-1f-2, ..."""
    parts = job.split("-")
    number = int(parts[2]) + 1 if len(parts) == 3 else 2
    return f"{parts[0]}-{parts[1]}-{number}"


def _info(client: JobClient, job: str) -> Any:
    try:
        with _reachable():
            return client.get_job_info(job)
    except RuntimeError as error:
        if "does not exist" in str(error):
            return None
        raise StageError(f"the cluster does not say how {job} is: {error}") from error


def _state(info: Any) -> str:
    return "" if info is None else str(getattr(info.status, "value", info.status))


def _send(
    client: JobClient,
    job: str,
    name: str,
    config: RunConfig,
    new_run: bool,
    sleep: Callable[[float], None],
) -> None:
    waited = 0.0
    command = ["python", "-m", "rayinfluence", "run", "run.yaml"] + ["--new-run"] * new_run
    with tempfile.TemporaryDirectory() as folder:
        # The file alone is sent, not the folder that it happens to lie in.
        values = config.model_dump(mode="json", exclude_unset=True)
        Store(folder).write("run.yaml", yaml.safe_dump(values, sort_keys=False).encode())
        while True:
            try:
                with _reachable():
                    client.submit_job(
                        entrypoint=shlex.join(command),
                        submission_id=job,
                        runtime_env={"working_dir": folder},
                        metadata={
                            "run": config.run,
                            "config": name,
                            "rayinfluence": version("rayinfluence"),
                        },
                    )
                return
            except RuntimeError as error:
                if "already exists" in str(error):
                    return  # somebody else submitted the same run a moment ago
                if "No available agent" not in str(error) or waited >= _PATIENCE_SECONDS:
                    raise StageError(f"the cluster does not take {job}: {error}") from error
            sleep(_POLL_SECONDS)
            waited += _POLL_SECONDS


def _follow(client: JobClient, job: str, say: Say) -> None:
    async def tail() -> None:
        async for text in client.tail_job_logs(job):
            say(text.rstrip("\n"))

    try:
        with _reachable():
            asyncio.run(tail())
    except RuntimeError as error:
        raise _lost(error) from error


@contextlib.contextmanager
def _reachable() -> Iterator[None]:
    with as_found():
        from aiohttp import ClientError
        from ray.exceptions import AuthenticationError

    try:
        yield
    except (OSError, ClientError, AuthenticationError) as error:
        raise _lost(error) from error


def _lost(error: Exception) -> StageError:
    return StageError(
        f"the connection was lost: {error}. A job that was submitted goes on; the same command "
        "follows it again."
    )


def _ended(client: JobClient, job: str, sleep: Callable[[float], None]) -> Any:
    while _state(info := _info(client, job)) not in _ENDED:
        if info is None:
            raise StageError(f"{job} is gone from the cluster; submit it again.")
        sleep(_POLL_SECONDS)
    return info


def _exit_code(info: Any) -> int:
    if _state(info) == "SUCCEEDED":
        return 0
    return getattr(info, "driver_exit_code", None) or StageError.exit_code
