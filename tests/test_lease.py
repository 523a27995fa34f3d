"""Who holds a run directory in a bucket."""

import json
import os

import pytest

from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.failure import RunError
from digipath_ray.storage import bucket, lease
from digipath_ray.storage.files import place, read_bytes
from digipath_ray.storage.lease import Lease, hold
from tests.buckets import Bucket, Fault
from tests.leases import race_for


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases of 1.5 s, renewed every 0.2 s."""
    monkeypatch.setattr(lease, "LEASE_S", 1.5)
    monkeypatch.setattr(lease, "RENEW_S", 0.2)
    monkeypatch.setattr(lease, "LOOK_S", 0.1)


def hold_once(url: str) -> None:
    with RunDirectory(url).lock():
        pass


def holder(url: str) -> int:
    """The process that holds the lease."""
    return int(json.loads(read_bytes(place(url) / "lease.json"))["pid"])


def leave(url: str, **said: object) -> None:
    """The lease of a process that has ended without giving it up."""
    dead = {"token": "other", "pid": 1, "host": "elsewhere", **said}
    bucket.put(place(url) / "lease.json", json.dumps(dead).encode())


def test_a_second_run_is_refused(bucket_url, quick):
    run = RunDirectory(bucket_url)
    with run.lock():
        with pytest.raises(RunError, match=r"in use by process \d+ on .*another --out"):
            hold_once(bucket_url)
        hold_once(f"{bucket_url}/other")
    hold_once(bucket_url)
    assert not (run.root / "lease.json").exists()


def test_of_many_at_once_one_gets_it(bucket_url, quick):
    assert race_for(place(bucket_url)) == (1, 7)


def test_a_lease_that_nobody_renews_is_taken_over(bucket_url, quick):
    leave(bucket_url)
    with hold(place(bucket_url)) as held:
        assert not held.lost.is_set()
        said = json.loads(read_bytes(place(bucket_url) / "lease.json"))
        assert said["token"] != "other"


def test_a_dead_process_of_this_machine_is_not_waited_for(
    bucket_url, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lease, "LEASE_S", 1e9)
    leave(bucket_url, host=lease.platform.node(), pid=2**22 + 1)
    with hold(place(bucket_url)):
        assert holder(bucket_url) == os.getpid()


def test_what_is_no_lease_is_taken_over_like_one(bucket_url, quick):
    bucket.put(place(bucket_url) / "lease.json", b"not json")
    with hold(place(bucket_url)):
        assert holder(bucket_url) == os.getpid()


def test_a_holder_learns_that_it_was_overtaken(bucket_url, quick):
    with hold(place(bucket_url)) as held:
        leave(bucket_url)
        assert held.lost.wait(5)
    said = json.loads(read_bytes(place(bucket_url) / "lease.json"))
    assert said["token"] == "other", "not ours to remove"


def test_a_lost_answer_to_a_renewal_loses_nothing(
    bucket_server: Bucket, bucket_url, quick
):
    fault = Fault(method="PUT", part="lease.json", kind="cut", times=2)
    with hold(place(bucket_url)) as held:
        bucket_server.faults.append(fault)
        for _ in range(50):
            if held.lost.wait(0.1) or fault.met == 2:
                break
        assert fault.met == 2
        assert not held.lost.wait(1.0)


def test_an_outage_shorter_than_a_lease_is_outlived(
    bucket_server: Bucket, bucket_url, quick
):
    fault = Fault(method="PUT", part="lease.json", kind="denied", times=3)
    with hold(place(bucket_url)) as held:
        bucket_server.faults.append(fault)
        assert not held.lost.wait(2.0)
        assert fault.met == 3


def test_an_outage_longer_than_a_lease_is_told(
    bucket_server: Bucket, bucket_url, quick
):
    with hold(place(bucket_url)) as held:
        bucket_server.faults.append(
            Fault(method="PUT", part="lease.json", kind="denied", times=10**6)
        )
        assert held.lost.wait(5)


def test_a_lease_is_given_up_once(bucket_url):
    first = Lease(place(bucket_url))
    first.acquire()
    first.release()
    first.release()
    assert not first.path.exists()
