"""Where the suite runs: on the CPU, or where RAYINFLUENCE_TEST_DEVICE says (`cuda`).

What references compute and what is made at random starts on the CPU in float64 and is moved.
"""

from __future__ import annotations

import os

import torch

DEVICE = torch.device(os.environ.get("RAYINFLUENCE_TEST_DEVICE", "cpu"))
