"""The cause of an error that Ray hands on is what the worker said, not Ray's advice."""

import pytest
import ray

from digipath_ray.distributed.cause import cause_of
from tests.runs import RAY_WARNINGS

CHAIN = """ray::MapWorker(MapBatches(PredictStage)).submit() (pid=1, ip=192.0.2.2)
  File "predict.py", line 6, in __call__
    raise ValueError("member a: NaN")
           ^^^^^^^^^^^^^^^^^^^^^^^^^
ValueError: member a: NaN
in its answer

The above exception was the direct cause of the following exception:

ray::MapWorker(MapBatches(PredictStage)).submit() (pid=1, ip=192.0.2.2)
ray.exceptions.UserCodeException: UDF failed to process a data block.
To change retry attempts, configure `ray.data.DataContext.get_current()`.
"""


class OfTrainingError(Exception):
    """As Ray Train raises it."""

    def __init__(self) -> None:
        super().__init__("2 workers failed")
        self.worker_failures = {0: RuntimeError(CHAIN)}


def test_the_first_of_a_chain_is_the_cause():
    assert cause_of(RuntimeError(CHAIN)) == "ValueError: member a: NaN in its answer"
    assert cause_of(OfTrainingError()) == cause_of(RuntimeError(CHAIN))
    assert cause_of(RuntimeError("the object store is full")) == (
        "the object store is full"
    )
    assert cause_of(RuntimeError()) == "RuntimeError()"


@pytest.mark.ray
@pytest.mark.filterwarnings(RAY_WARNINGS)
def test_an_error_in_a_plan_is_named(ray_here):
    def fail(batch):
        raise ValueError("the true cause")

    plan = ray.data.range(2).map_batches(fail)
    with pytest.raises(ray.exceptions.UserCodeException) as caught:
        list(plan.iter_batches())
    assert "retried_map_errors" in str(caught.value), "Ray's advice is below the cause"
    assert cause_of(caught.value) == "ValueError: the true cause"
