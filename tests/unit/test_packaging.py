"""Installing this package leaves the user's environment as it is."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import litellm_resilience

PROJECT = Path(__file__).parents[2]
NAME = "litellm-resilience"


def run_time_requirements() -> list[Requirement]:
    requirements = [Requirement(line) for line in metadata.requires(NAME) or []]
    return [r for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]


def pip(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_requirements_have_lower_bounds_only_and_no_extras() -> None:
    requirements = run_time_requirements()
    assert "litellm" in {r.name for r in requirements}
    for requirement in requirements:
        assert {clause.operator for clause in requirement.specifier} <= {">="}
        assert not requirement.extras


def test_the_extra_for_a_fresh_machine_pulls_litellms_proxy() -> None:
    lines = [Requirement(line) for line in metadata.requires(NAME) or []]
    extra = [r for r in lines if r.marker and r.marker.evaluate({"extra": "proxy"})]
    assert any(r.name == "litellm" and r.extras == {"proxy"} for r in extra)


@pytest.mark.process
def test_pip_would_install_nothing_else_here() -> None:
    """A dry run of pip's resolver in this environment, with the LiteLLM that is in it."""
    if pip("check").returncode:
        pytest.skip("this environment was made with overrides: pip would repair it in any case")
    result = pip("install", "--dry-run", "--quiet", "--report", "-", str(PROJECT))
    assert result.returncode == 0, result.stderr
    planned = {item["metadata"]["name"] for item in json.loads(result.stdout)["install"]}
    assert planned <= {NAME}


def test_the_package_is_typed_and_complete() -> None:
    files = {str(file) for file in metadata.files(NAME) or []}
    if not any(name.endswith("py.typed") for name in files):
        pytest.skip("installed in editable mode")
    assert "litellm_resilience/asgi.py" in files
    folders = {name.partition("/")[0] for name in files if not name.startswith("..")}
    assert {name for name in folders if not name.endswith(".dist-info")} == {"litellm_resilience"}
    assert Path(litellm_resilience.__file__).parents[1] != PROJECT, "tested is the checkout"
