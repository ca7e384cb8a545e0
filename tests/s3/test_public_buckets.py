"""Documents in a bucket that all may read, beside a run directory that needs credentials."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import s3fs
from s3.conftest import committed, open_store
from s3.faults import FaultProxy, fault_proxy
from s3.radosgw import Radosgw

from rayinfluence.config import RunConfig
from rayinfluence.errors import RayInfluenceError

pytestmark = pytest.mark.s3

Execute = Callable[[RunConfig], Any]
Change = Callable[..., RunConfig]
Reference = tuple[RunConfig, dict[str, bytes]]
