"""The Dockerfile, as far as it can be read; `tests/process` runs what it installs."""

from __future__ import annotations

import re

from deployment import DEPLOY, PROJECT, container, dockerfile

IMAGE = dockerfile()[""]


def test_the_command_gets_signals() -> None:
    """In exec form, below an init: a shell would not pass a SIGTERM on."""
    assert IMAGE.command("ENTRYPOINT") == ["tini", "--", "litellm-resilient"]
    assert IMAGE.command("CMD")[0].startswith("--")
    assert "command" not in container()


def test_what_is_installed_is_what_the_stages_have() -> None:
    installed = re.findall(r"--target (\S+)", dockerfile()["package"].all("RUN")[0])
    copies = [line.split() for line in IMAGE.all("COPY")]
    assert [copy[0].removeprefix("--from=") for copy in copies] == ["package", "init"]
    assert copies[0][1:] == [*installed, *installed]
    assert copies[1][2] == f"{installed[0]}/bin/tini"
    assert IMAGE.assignments("ENV") == {
        "PATH": f"{installed[0]}/bin:$PATH",
        "PYTHONPATH": installed[0],
    }


def test_what_is_copied_from_the_clone_is_there() -> None:
    for line in dockerfile()["package"].all("COPY"):
        for source in line.split()[:-1]:
            assert (PROJECT / source).exists()


def test_the_image_is_checked_when_it_is_built() -> None:
    assert IMAGE.all("RUN")[-1].endswith("litellm-resilient --doctor")


def test_the_image_stays_with_the_user_of_litellms() -> None:
    """Who that is, is LiteLLM's choice, and the Deployment says a number of its own."""
    assert IMAGE.all("USER") == []


def test_no_registry_is_named() -> None:
    """An image without a host comes from wherever the builder pulls by default."""
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    images = re.findall(r"^(?:FROM|ARG LITELLM_IMAGE=) ?(\S+)", text, re.MULTILINE)
    assert len(images) == 4
    assert all("." not in image.partition("/")[0].partition(":")[0] for image in images)
