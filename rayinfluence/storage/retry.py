"""Faults of object storage: which pass, how long they are waited for, and what to say of the rest.

Two loops repeat what failed, because neither reaches everything, as
tests/unit/storage/test_retry.py shows of each:

* botocore repeats single requests: statuses 500, 502, 503 and 504, throttling, refused, reset and
  timed-out connections. A listing of fifty pages or an upload in parts repeats the one request that
  failed. It cannot repeat a body that breaks off while it is read, nor a 429 of a server whose
  error code it does not know, and it gives up after seconds.
* :func:`retrying` repeats whole operations of a store, for what botocore does not cover and for
  outages longer than seconds: a server that restarts.

s3fs has a loop of its own between the two, without jitter, which would multiply their attempts; it
is switched off. Waiting changes when bytes are written, never which.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

from rayinfluence.text import visible_line

T = TypeVar("T")

#: Attempts at an operation, and the seconds after which no new one begins.
ATTEMPTS = 9
GIVE_UP_SECONDS = 120.0
#: Waits double from the first to the longest; each is shortened at random by up to half, so that
#: many actors that failed together do not come back together.
FIRST_WAIT = 0.5
LONGEST_WAIT = 10.0

#: What botocore is configured with. A server that is silent for longer than the timeout has lost
#: the request.
CLIENT_CONFIG: Final[dict[str, Any]] = {
    "connect_timeout": 10,
    "read_timeout": 30,
    "retries": {"mode": "standard", "total_max_attempts": 3},
}

#: Draws from the machine: the generator of the `random` module is a caller's.
_RANDOM = random.SystemRandom()

#: 409 is how S3 answers writes to one key that meet: it asks for the request to be sent again.
_TRANSIENT_STATUSES = {408, 409, 429, 500, 502, 503, 504}
#: Error codes that come with status 400 or 200.
_TRANSIENT_CODES = {"RequestTimeout", "InternalError", "SlowDown", "ServiceUnavailable"}
#: Exceptions of aiohttp, botocore, urllib3, asyncio and fsspec for a connection or a body that
#: broke off, by name: storage imports none of them.
_TRANSIENT_NAMES = {
    "ClientConnectionError",
    "ClientPayloadError",
    "ConnectionError",
    "FSTimeoutError",
    "HTTPClientError",
    "IncompleteRead",
    "IncompleteReadError",
    "ResponseParserError",
    "ResponseStreamingError",
    "TimeoutError",
}
#: Among those, what waiting does not mend: a certificate, an address that is none.
_PERMANENT_NAMES = {"SSLError", "InvalidProxiesConfigError", "ClientSSLError", "InvalidURL"}
_CREDENTIAL_CODES = {
    "AuthorizationHeaderMalformed",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
}

NO_SUCH_BUCKET = "NoSuchBucket"

#: Credentials of one place are none of another, and public buckets of that one refuse them.
_PUBLIC = (
    "What everyone may read is read without any: storage.anonymous, or for one place alone "
    "storage.places."
)

#: Where a request carries what went wrong with its last attempt.
_CAUSE = "rayinfluence_cause"

_logger = logging.getLogger(__name__)
_lock = threading.Lock()
_count = 0


class ShortReadError(OSError):
    """Fewer bytes came than the object has."""


def retries() -> int:
    """How many requests and operations this process has repeated since it started."""
    return _count


def retrying(operation: Callable[[], T], place: str) -> T:
    """Do an operation, again after faults that pass.

    Args:
        operation: done from its start each time.
        place: what it is about, for the log.

    Raises:
        Exception: the operation's own, at once where waiting does not mend it, otherwise the last.
    """
    start = time.monotonic()
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return operation()
        except Exception as error:
            over = attempt == ATTEMPTS or time.monotonic() - start > GIVE_UP_SECONDS
            if over or not is_transient(error):
                raise
            _repeated(place, cause(error))
            longest = min(FIRST_WAIT * 2 ** (attempt - 1), LONGEST_WAIT)
            time.sleep(longest * _RANDOM.uniform(0.5, 1))
    raise AssertionError("unreachable")


def watch(client: Any) -> None:
    """Have the requests that a botocore client repeats by itself counted and logged as well."""
    events = client.meta.events
    events.register("needs-retry.s3", _remember_cause, unique_id="rayinfluence-cause")
    events.register("request-created.s3", _count_repeated, unique_id="rayinfluence-repeated")


def is_transient(error: BaseException) -> bool:
    """Whether an operation that failed so may succeed when it is done again."""
    status, code = http_status(error), error_code(error)
    if status is not None:
        return status in _TRANSIENT_STATUSES or code in _TRANSIENT_CODES
    if any(_names(link) & _PERMANENT_NAMES for link in chain(error)):
        return False
    return isinstance(error, ShortReadError) or bool(_names(error) & _TRANSIENT_NAMES)


def http_status(error: BaseException) -> int | None:
    """The HTTP status that an exception goes back to, whatever wraps it."""
    status = _response(error).get("ResponseMetadata", {}).get("HTTPStatusCode")
    if status is None:  # not of botocore's
        answers = (getattr(link, "response", None) for link in chain(error))
        status = next(filter(None, (getattr(one, "status_code", None) for one in answers)), None)
    return int(status) if status is not None else None


def error_code(error: BaseException) -> str:
    """The S3 error code that an exception goes back to; empty where there is none."""
    return str(_response(error).get("Error", {}).get("Code", ""))


def cause(error: BaseException) -> str:
    """What went wrong, in the server's words where it said something."""
    return f"{error_code(error) or type(error).__name__}: {error}"


def advice(error: BaseException, anonymous: bool = False) -> str:
    """What the user can do about a fault, in a sentence or two.

    Args:
        error: the fault.
        anonymous: whether the request carried no credentials, as it was to carry none.
    """
    status, code = http_status(error), error_code(error)
    if status in (401, 403) and anonymous:
        return (
            "It was asked without credentials, as storage.anonymous says, and not everyone may: "
            "check the address, or set credentials and take the key out for it (storage.places)."
        )
    if code == "ExpiredToken":
        return (
            "The keys have run out. Those of the environment are not renewed: set new ones and run "
            "the same command again, which goes on where it was. Those of a role or a profile that "
            "names one are renewed while a run goes on; name such a one for long runs."
        )
    if code in _CREDENTIAL_CODES or "NoCredentialsError" in _names(error):
        return (
            "Check the credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the profile "
            f"or role that the environment names, and the clock. {_PUBLIC}"
        )
    if status == 403:
        return (
            "Check the credentials, and that their policy and the bucket's allow reading, "
            f"writing, listing and deleting under this address. {_PUBLIC}"
        )
    if code == NO_SUCH_BUCKET:
        return "Check the address, make the bucket, or set storage.endpoint_url to its server."
    if is_transient(error):
        waited = "it was tried again until it was given up; when the server is well, run again"
        return f"Check the address and the server: {waited}, and what is done stays done."
    if status is not None and status >= 400:
        return (
            "Check the address, storage.region, storage.path_style and, for servers that refuse "
            "checksums, storage.checksums."
        )
    if isinstance(error, PermissionError):
        return "Give this user the right to it, or name a place where it has it."
    if isinstance(error, NotADirectoryError | FileExistsError):
        return "A part of this path is a file and has to be a folder: name another place."
    return "Check the address, the credentials and the free space."


def _remember_cause(
    request_dict: dict[str, Any], response: Any, caught_exception: Any, **_: Any
) -> None:
    if caught_exception is not None:
        request_dict["context"][_CAUSE] = cause(caught_exception)
    elif "Error" in response[1]:
        request_dict["context"][_CAUSE] = response[1]["Error"].get("Code", "")


def _count_repeated(request: Any, **_: Any) -> None:
    if request.context.get("retries", {}).get("attempt", 1) > 1:
        where = f"{request.method} {request.url.partition('?')[0]}"
        _repeated(where, request.context.get(_CAUSE, ""))


def _repeated(place: str, cause: str) -> None:
    global _count
    with _lock:
        _count += 1
    _logger.warning("%s is tried again: %s", visible_line(place), visible_line(cause))


def _response(error: BaseException) -> dict[str, Any]:
    for link in chain(error):
        response = getattr(link, "response", None)
        if isinstance(response, dict):
            return response
    return {}


def chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and those that it was raised from."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__


def _names(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}
