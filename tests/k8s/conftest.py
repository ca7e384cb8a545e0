"""Where the project is, and copies of what is checked, to make mistakes in."""

import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_CHECKED = ("k8s", "deploy", "docs", "jobs", "tests/k8s/crds")
_FILES = ("constraints.txt", "pyproject.toml", ".dockerignore", "README.md", "LICENSE")


@pytest.fixture(scope="session")
def project() -> Path:
    """The project's root."""
    return ROOT


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of what is checked; the package itself is only linked."""
    for folder in _CHECKED:
        shutil.copytree(ROOT / folder, tmp_path / folder)
    for file in _FILES:
        shutil.copy(ROOT / file, tmp_path / file)
    (tmp_path / "rayinfluence").symlink_to(ROOT / "rayinfluence")
    return tmp_path
