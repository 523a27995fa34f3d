#!/usr/bin/env bash
# A fit of Ray Train leaves the process of its controller behind.
#
# Library:  ray 2.60.0 (Ray Train), Python 3.11
# Behavior: fit() runs in a controller, an actor of its own. One expects it to end when
#           fit() has returned and nobody holds the trainer. It does not: called in the
#           main thread, fit() sets a handler of SIGINT that holds the controller's
#           handle, and leaves it set. The process stays until the next fit() in the
#           same process sets another handler, or that process ends.
# Matters:  members of an ensemble that are fitted one after another, each in a task or
#           a notebook: every process that has called fit() keeps a controller, of a
#           gigabyte with torch. Putting the earlier handler of SIGINT back lets it go.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet 'ray[default,train]==2.60.0'
cat > "$folder/fit.py" <<'PYTHON'
import gc
import signal
import sys
import time

import ray
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.util.state import list_actors


def controllers():
    alive = [("state", "=", "ALIVE"), ("class_name", "=", "TrainController")]
    return len(list_actors(filters=alive))


def after(seconds=10):
    end = time.monotonic() + seconds
    while controllers() and time.monotonic() < end:
        time.sleep(0.5)
    return controllers()


ray.init(num_cpus=2, log_to_driver=False, logging_level="ERROR")
before = signal.getsignal(signal.SIGINT)
DataParallelTrainer(lambda: None).fit()
gc.collect()
left = after()
print("controllers 10 s after fit():", left)
signal.signal(signal.SIGINT, before)
gc.collect()
freed = after()
print("after the handler of before is back:", freed)
sys.exit(0 if (left, freed) == (1, 0) else 1)
PYTHON
cd "$folder"
"$folder/venv/bin/python" fit.py 2> "$folder/log" || { tail -5 "$folder/log"; exit 1; }
