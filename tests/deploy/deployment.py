"""The files in `deploy/`, read as the programs that use them would."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml")

PROJECT = Path(__file__).parents[2]
DEPLOY = PROJECT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the one document of a file."""
    document: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return document


def pod() -> dict[str, Any]:
    """Return the Deployment's pod."""
    spec: dict[str, Any] = read_yaml(KUBERNETES / "deployment.yaml")["spec"]["template"]["spec"]
    return spec


def container() -> dict[str, Any]:
    """Return the pod's only container."""
    (only,) = pod()["containers"]
    found: dict[str, Any] = only
    return found


def option(name: str, arguments: list[str]) -> str:
    """Return an option's value on a command line."""
    return arguments[arguments.index(name) + 1]


def variables(of: dict[str, Any]) -> dict[str, str]:
    """Return the environment variables of a container whose values are in the manifest."""
    return {each["name"]: each["value"] for each in of["env"] if "value" in each}


@dataclass
class Stage:
    """One stage of a Dockerfile.

    Args:
        name: what it is called, if it is.
        steps: its instructions with their arguments, in order.
    """

    name: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        """Return the arguments of each such instruction."""
        return [argument for name, argument in self.steps if name == instruction]

    def assignments(self, instruction: str) -> dict[str, str]:
        """Return what ARG or ENV set."""
        words = [word for line in self.all(instruction) for word in shlex.split(line)]
        return dict(word.split("=", 1) for word in words)

    def command(self, instruction: str) -> list[str]:
        """Return the last ENTRYPOINT or CMD, which must be in exec form."""
        words: list[str] = json.loads(self.all(instruction)[-1])
        return words


def image_reference() -> str:
    """Return the image that the Dockerfile builds on."""
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith("ARG LITELLM_IMAGE="))
    return line.partition("=")[2]


def dockerfile() -> dict[str, Stage]:
    """Return the stages of the Dockerfile by name; the image itself is the last one, without."""
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    stages: list[Stage] = []
    for line in lines.replace("\\\n", " ").splitlines():
        name, _, argument = line.strip().partition(" ")
        if name == "FROM":
            stages.append(Stage(argument.partition(" AS ")[2]))
        elif name and stages:
            stages[-1].steps.append((name, argument.strip()))
    return {stage.name: stage for stage in stages}
