"""Everything that is deployed is right, and everything that could be wrong with it is caught."""

from __future__ import annotations

from pathlib import Path

import deploy_check
import kube_check
import pytest
import yaml
from kube_render import kustomize
from mistakes import MISTAKES, Mistake


def problems(root: Path, what: str) -> list[str]:
    found = deploy_check.problems(root) if what == "deploy" else kube_check.problems(root, what)
    return list(found)


@pytest.mark.parametrize("what", [*kube_check.OVERLAYS, "deploy"])
def test_nothing_is_wrong(project: Path, what: str) -> None:
    assert problems(project, what) == []


def test_every_overlay_and_component_is_checked(project: Path) -> None:
    assert {p.name for p in (project / "k8s/overlays").iterdir()} == set(kube_check.OVERLAYS)
    used = {
        Path(component).name
        for overlay in kube_check.OVERLAYS
        for component in yaml.safe_load(
            (project / "k8s/overlays" / overlay / "kustomization.yaml").read_text()
        ).get("components", [])
    }
    assert {p.name for p in (project / "k8s/components").iterdir()} == used


def test_a_copy_without_mistakes_is_right(copy: Path) -> None:
    assert problems(copy, "deploy") == problems(copy, "gpu-spot") == []


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=list(MISTAKES))
def test_a_mistake_is_caught(copy: Path, mistake: Mistake) -> None:
    file = copy / mistake.file
    text = file.read_text("utf-8")
    assert mistake.old in text, "this mistake cannot be made any more"
    file.write_text(text.replace(mistake.old, mistake.new), "utf-8")
    found = problems(copy, mistake.check)
    assert any(mistake.complaint in problem for problem in found), found or "nothing was found"


def test_there_are_mistakes_enough() -> None:
    assert len(MISTAKES) >= 25


def test_without_kubectl_it_fails_and_says_so(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ValueError, match="kubectl is not installed"):
        kustomize(project / "k8s/base")
