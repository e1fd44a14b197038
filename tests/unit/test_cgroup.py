"""The memory limit that applies, in folders that look like the kernel's."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from litellm_resilience.supervisor import cgroup
from litellm_resilience.supervisor.cgroup import UnreadableError, Usage

V2_MOUNT = "31 23 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1_MOUNTS = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 {top} /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
35 31 0:32 {top} /sys/fs/cgroup/memory rw,relatime shared:5 - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""
V1_UNLIMITED = 9223372036854771712


class Files:
    """A root folder.

    Args:
        root: where.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, path: str, content: object) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{content}\n")

    def process(self, groups: str, mounts: str) -> None:
        self.write("proc/self/cgroup", groups)
        self.write("proc/self/mountinfo", f"1 0 8:1 / / rw - ext4 /dev/sda1 rw\n{mounts}")

    def v2(self, folder: str = "", **files: object) -> None:
        for name, content in files.items():
            self.write(f"sys/fs/cgroup/{folder}/memory.{name}", content)

    def v1(self, folder: str, limit: object, used: object = 0, stat: str = "") -> None:
        place = f"sys/fs/cgroup/memory/{folder}"
        self.write(f"{place}/memory.limit_in_bytes", limit)
        self.write(f"{place}/memory.usage_in_bytes", used)
        self.write(f"{place}/memory.stat", stat)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.fixture
def container(files: Files) -> Files:
    """A container with v2, which sees itself as the outermost group."""
    files.process("0::/", V2_MOUNT)
    files.v2(max=1000, high="max", current=600)
    return files


def test_the_limit_of_a_container(container: Files) -> None:
    assert cgroup.usage(container.root) == Usage(1000, 600)


def test_what_the_kernel_keeps_of_files_is_not_used(container: Files) -> None:
    container.v2(stat="anon 300\nfile 250\nactive_file 50\ninactive_file 200\nshmem 1")
    assert cgroup.usage(container.root) == Usage(1000, 350)


def test_the_pressure_is_that_of_some_process(container: Files) -> None:
    container.v2(
        pressure="some avg10=12.50 avg60=1.00 avg300=0.10 total=9\n"
        "full avg10=3.00 avg60=0.00 avg300=0.00 total=3"
    )
    assert cgroup.usage(container.root) == Usage(1000, 600, 12.5)


def test_a_limit_that_only_slows_down_is_one(container: Files) -> None:
    container.v2(high=900)
    assert cgroup.usage(container.root) == Usage(900, 600)


def test_no_limit_is_no_limit(container: Files) -> None:
    container.v2(max="max")
    assert cgroup.usage(container.root) is None


def test_a_limit_that_changes_is_read_anew(container: Files) -> None:
    assert cgroup.usage(container.root) == Usage(1000, 600)
    container.v2(max=800)
    assert cgroup.usage(container.root) == Usage(800, 600)
    container.v2(max="max")
    assert cgroup.usage(container.root) is None


def test_the_outermost_group_has_no_files(files: Files) -> None:
    files.process("0::/a.slice/b.scope", V2_MOUNT)
    files.v2("a.slice/b.scope", max="max", high="max", current=5)
    files.v2("a.slice", max=70, high="max", current=60)
    assert cgroup.usage(files.root) == Usage(70, 60)


@pytest.mark.parametrize(
    ("inner", "outer", "nearest"),
    [
        ((1000, 600), (5000, 700), (1000, 600)),
        ((1000, 600), (5000, 4900), (5000, 4900)),
        (("max", 600), (5000, 700), (5000, 700)),
        ((1000, 600), ("max", 700), (1000, 600)),
    ],
)
def test_of_nested_groups_the_one_nearest_to_its_limit_counts(
    files: Files,
    inner: tuple[object, int],
    outer: tuple[object, int],
    nearest: tuple[int, int],
) -> None:
    files.process("0::/pod/container", V2_MOUNT)
    files.v2("pod/container", max=inner[0], current=inner[1])
    files.v2("pod", max=outer[0], current=outer[1])
    assert cgroup.usage(files.root) == Usage(*nearest)


def test_v1_where_the_group_is_nested(files: Files) -> None:
    files.process("8:cpu:/\n4:memory:/pod/box\n0::/", V1_MOUNTS.format(top="/"))
    files.v1("pod/box", V1_UNLIMITED, 50)
    files.v1("pod", 900, 700, "inactive_file 1\ntotal_inactive_file 100\ntotal_active_file 50")
    files.v1("", V1_UNLIMITED, 10**9)
    assert cgroup.usage(files.root) == Usage(900, 550)


def test_v1_in_a_container_that_is_told_the_path_outside_of_it(files: Files) -> None:
    files.process("4:memory,hugetlb:/docker/abc", V1_MOUNTS.format(top="/docker/abc"))
    files.v1("", 900, 700)
    assert cgroup.usage(files.root) == Usage(900, 700)


def test_a_group_beyond_what_the_container_sees_counts_as_its_own(files: Files) -> None:
    files.process("0::/../../elsewhere", V2_MOUNT)
    files.v2(max=100, current=10)
    assert cgroup.usage(files.root) == Usage(100, 10)


def test_a_place_with_a_space_in_its_name(files: Files) -> None:
    files.process("0::/", "31 23 0:28 / /my\\040groups rw - cgroup2 cgroup2 rw")
    files.write("my groups/memory.max", 100)
    files.write("my groups/memory.current", 10)
    assert cgroup.usage(files.root) == Usage(100, 10)


def test_more_files_than_memory_is_nothing_used(container: Files) -> None:
    """The numbers are not of one moment."""
    container.v2(stat="active_file 700")
    assert cgroup.usage(container.root) == Usage(1000, 0)


NONSENSE = ["", "many", "-1", "1.5", "1e9", "0x10", "9" * 30, "\u0661", "max max", "\0", "1 2"]


@pytest.mark.parametrize("file", ["max", "high", "current"])
@pytest.mark.parametrize("text", NONSENSE)
def test_nonsense_for_a_number_is_said(container: Files, file: str, text: str) -> None:
    container.v2(**{file: text})
    with pytest.raises(UnreadableError, match=f"memory.{file} says "):
        cgroup.usage(container.root)


@pytest.mark.parametrize("groups", ["", "nonsense", "4:cpu:/\n", "0::relative", "x:memory:/", "::"])
def test_nonsense_for_a_group_is_said(container: Files, groups: str) -> None:
    container.write("proc/self/cgroup", groups)
    with pytest.raises(UnreadableError):
        cgroup.usage(container.root)


@pytest.mark.parametrize("mounts", ["", "nonsense - - -", "31 23 0:28 / /x rw - tmpfs tmpfs rw"])
def test_no_place_of_groups_is_said(container: Files, mounts: str) -> None:
    container.write("proc/self/mountinfo", mounts)
    with pytest.raises(UnreadableError, match="no file system of the type cgroup2"):
        cgroup.usage(container.root)


def test_without_any_files_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match="No such file"):
        cgroup.usage(tmp_path)


@pytest.mark.parametrize("gone", ["memory.current", "."])
def test_files_that_vanish_are_said_and_come_back(container: Files, gone: str) -> None:
    place = container.root / "sys/fs/cgroup"
    away = container.root / "away"
    (place / gone).rename(away)
    with pytest.raises(UnreadableError):
        cgroup.usage(container.root)
    away.rename(place / gone)
    assert cgroup.usage(container.root) == Usage(1000, 600)


@pytest.mark.parametrize("extra", ["stat", "pressure"])
@pytest.mark.parametrize("text", ["", "active_file x", "some avg10=nan", "some avg10=", "\ufffd"])
def test_what_only_helps_may_be_nonsense(container: Files, extra: str, text: str) -> None:
    container.v2(**{extra: text})
    assert cgroup.usage(container.root) == Usage(1000, 600)


@given(content=st.binary(max_size=60), name=st.sampled_from(["cgroup", "mountinfo"]))
def test_no_content_is_another_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str
) -> None:
    files = Files(tmp_path_factory.mktemp("root"))
    files.process("0::/", V2_MOUNT)
    files.v2(max=1000, current=600)
    (files.root / "proc/self" / name).write_bytes(content)
    with contextlib.suppress(UnreadableError):
        cgroup.usage(files.root)


@pytest.mark.skipif(sys.platform != "linux", reason="cgroups are Linux's")
def test_this_machine_is_understood() -> None:
    found = cgroup.usage()
    assert found is None or 0 < found.used <= found.limit
