"""What of `doctor` no machine of ours has: file systems by their mountinfo, clocks by their headers, work that hangs."""

import threading

import pytest

from neuron_store.cli.diagnosis import clock
from neuron_store.cli.diagnosis.bounded import run_bounded
from neuron_store.cli.diagnosis.filesystem import describe
from neuron_store.store.mounts import mount_of

MOUNTS = r"""
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
22 21 0:5 / /proc rw - proc proc rw
30 21 0:40 / /home rw,relatime shared:9 - nfs4 server:/home rw,vers=4.2,local_lock=none
31 21 0:41 / /fsx rw - lustre 10.0.0.1@tcp:/fsx rw,flock
32 21 0:42 / /mnt/s3 rw - fuse.mount-s3 mountpoint-s3 rw,user_id=0
33 21 0:43 / /var/lib/my\040disk rw - xfs /dev/sdb rw
34 21 0:44 / /old rw - nfs server:/old rw,vers=3,nolock
35 34 0:45 / /old rw - overlay overlay rw,lowerdir=/x
36 21 0:46 / /dev/shm rw - tmpfs tmpfs rw
37 21 0:47 / /odd rw - brandnewfs none rw
38 21 0:48 / /scratch rw - nfs server:/scratch rw,nolock
a line that is torn
"""


@pytest.mark.parametrize(
    ("path", "finding", "point"),
    [
        ("/opt/x", "filesystem.local", "/"),
        ("/home/me/.cache", "filesystem.nfs", "/home"),
        ("/homestead", "filesystem.local", "/"),
        ("/fsx/store", "filesystem.network", "/fsx"),
        ("/mnt/s3/store", "filesystem.fuse", "/mnt/s3"),
        ("/var/lib/my disk/store", "filesystem.local", "/var/lib/my disk"),
        ("/old/store", "filesystem.overlay", "/old"),
        ("/dev/shm/store", "filesystem.memory", "/dev/shm"),
        ("/odd", "filesystem.unknown", "/odd"),
    ],
)
def test_the_kind_of_file_system_is_that_of_the_innermost_and_last_mount(tmp_path, path, finding, point):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    found = describe(mount_of(path, str(mounts)))
    assert found.id == finding
    assert f"mounted at {point}" in found.what


def test_mount_options_that_weaken_locks_are_named(tmp_path):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    assert describe(mount_of("/scratch/store", str(mounts))).what.endswith("with nolock")
    assert describe(mount_of("/home/store", str(mounts))).what.endswith("with local_lock=none")


@pytest.mark.parametrize(
    ("header", "finding"),
    [
        ("Mon, 01 Jan 2024 00:00:30 GMT", "clock.agrees"),
        ("Mon, 01 Jan 2024 02:00:00 GMT", "clock.remote-differs"),
        ("Sun, 31 Dec 2023 02:00:00 GMT", "clock.remote-differs"),
    ],
)
def test_clocks_are_compared_by_the_date_of_an_answer(header, finding):
    assert clock.compare("https://hub", header, 1704067200.0).id == finding


@pytest.mark.parametrize("header", ["", "yesterday", "Mon, 99 Jan 2024 00:00:30 GMT"])
def test_an_answer_without_a_date_tells_nothing_of_its_clock(header):
    assert clock.compare("https://hub", header, 1704067200.0) is None


def test_work_that_hangs_is_left_behind_and_the_rest_is_done():
    ended = threading.Event()

    def fail():
        raise ValueError("no")

    hanging, failing, done = run_bounded([ended.wait, fail, lambda: 3], 0.5)
    ended.set()
    assert (hanging.finished, hanging.made, hanging.error) == (False, None, None)
    assert failing.finished
    assert str(failing.error) == "no"
    assert (done.finished, done.made, done.error) == (True, 3, None)
