"""How runs that share a cluster part its GPUs."""

import time

import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st

from digipath_ray.distributed.fairness import (
    fair,
    fair_parts,
    give_way,
    other_runs,
    surplus,
)
from digipath_ray.distributed.ledger import Ledger, Place, Standing, share_ledger
from tests.runs import RAY_WARNINGS

sizes = st.lists(st.floats(0, 1000), min_size=1, max_size=6)


@pytest.mark.parametrize(
    ("wants", "total", "parts"),
    [
        ([100.0], 8.0, [8.0]),
        ([100.0, 100.0], 8.0, [4.0, 4.0]),
        ([100.0, 3.0], 8.0, [5.0, 3.0]),  # what one does not want the others get
        ([3.0, 100.0, 100.0], 9.0, [3.0, 3.0, 3.0]),
        ([1.0, 2.0], 8.0, [1.0, 2.0]),
    ],
)
def test_gpus_are_parted_by_max_min_fairness(wants, total, parts):
    assert fair_parts(wants, total) == pytest.approx(parts)


@given(wants=sizes, total=st.floats(0, 100))
def test_nobody_gets_more_than_it_wants_and_nothing_is_left_over(wants, total):
    parts = fair_parts(wants, total)
    assert sum(parts) == pytest.approx(min(total, sum(wants)))
    for want, part in zip(wants, parts, strict=True):
        assert 0 <= part <= want + 1e-9
        assert part == pytest.approx(want) or part == pytest.approx(max(parts))


LARGE = Standing(wants=500.0, holds=8.0)


@pytest.mark.parametrize(
    ("other", "free", "gives"),
    [
        (Standing(wants=3.0, holds=0.0), 0.0, 3.0),
        (Standing(wants=3.0, holds=2.0), 0.0, 1.0),
        (Standing(wants=3.0, holds=0.0), 2.0, 1.0),  # two are free: one is lacking
        (Standing(wants=500.0, holds=0.0), 0.0, 4.0),
        (Standing(wants=3.0, holds=3.0), 0.0, 0.0),  # nobody waits
        (Standing(wants=0.0, holds=0.0), 0.0, 0.0),  # a run on CPUs
    ],
)
def test_a_run_gives_what_it_has_too_many_and_others_lack(other, free, gives):
    assert surplus(LARGE, [other], total=8.0, free=free) == pytest.approx(gives)


def test_who_has_less_than_its_part_gives_nothing():
    small = Standing(wants=3.0, holds=1.0)
    assert surplus(small, [LARGE], total=8.0, free=0.0) == 0.0


def test_as_many_actors_leave_as_are_told_to_and_no_other():
    ledger = Ledger(wants=9.0)
    for actor in "abc":
        ledger.take_place(actor, 0.5)
    assert ledger.standing() == Standing(wants=9.0, holds=1.5)
    assert all(ledger.keeps_place(actor) for actor in "abc")
    ledger.give_way(1.2)  # the half that would be too many stays
    assert [ledger.keeps_place(actor) for actor in "abc"] == [False, False, True]
    assert ledger.standing().holds == 0.5
    ledger.take_place("a", 0.5)  # it has come back
    assert ledger.keeps_place("a")


@pytest.mark.ray
@pytest.mark.filterwarnings(RAY_WARNINGS)
def test_runs_see_each_other_while_they_last(ray_here):
    mine, other = share_ledger(3.0), share_ledger(5.0)
    other.take_place("actor", 0.5)
    standing = Standing(wants=5.0, holds=0.5)
    assert standing in other_runs(mine)
    assert give_way(mine) == Standing(wants=3.0, holds=0.0)
    with fair(other):
        assert standing in other_runs(mine)
    assert standing not in other_runs(mine), "it has ended, and claims nothing"


@pytest.mark.ray
@pytest.mark.filterwarnings(RAY_WARNINGS)
def test_an_actor_that_leaves_comes_back_with_its_work(ray_here):
    ledger = share_ledger(1.0)

    class Worker:
        def __init__(self) -> None:
            self.place = Place(ledger, 1.0)

        def work(self, number: int) -> int:
            self.place.keep()
            return number

    actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Worker)
    worker = actor.remote()
    assert ray.get(worker.work.remote(1)) == 1
    assert ledger.standing().holds == 1.0
    ledger.give_way(1.0)
    assert ray.get([worker.work.remote(n) for n in (2, 3)]) == [2, 3]
    assert ledger.standing().holds == 1.0


@pytest.mark.ray
@pytest.mark.filterwarnings(RAY_WARNINGS)
def test_a_lost_ledger_ends_no_run(ray_here, monkeypatch, caplog):
    monkeypatch.setattr("digipath_ray.distributed.fairness.LOOK_S", 0.05)
    ledger = share_ledger(1.0)
    seen: list[Standing] = []

    def told(mine: Standing) -> None:
        seen.append(mine)
        if len(seen) > 1:
            raise ray.exceptions.RayActorError

    with fair(ledger, told):
        deadline = time.monotonic() + 30
        while "are not seen" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.05)
    assert "other runs on the cluster are not seen" in caplog.text
