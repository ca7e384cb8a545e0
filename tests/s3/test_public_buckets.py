"""Documents in a bucket that all may read, beside a run directory that needs credentials."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rayinfluence.config import RunConfig

pytestmark = pytest.mark.s3

Execute = Callable[[RunConfig], Any]
Change = Callable[..., RunConfig]
Reference = tuple[RunConfig, dict[str, bytes]]
