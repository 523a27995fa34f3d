#!/usr/bin/env bash
# ray.data.read_parquet starts a pool of processes to read the footer of one tiny file.
#
# Library:  ray 2.60.0 (Ray Data), pyarrow 26.0.1
# Behavior: the plan of one Parquet file of ten rows starts eight actors (FooterReader),
#           each a Python process of its own that imports pyarrow and pandas, reads the
#           footer, and is killed when the plan has begun. They ask for no CPU, so a
#           machine of two cores has them too. ray.data.from_arrow of the same table
#           starts none.
# Matters:  a plan over a small table of work (shards of slides, say) pays some ten CPU
#           seconds and several seconds of waiting before its first row, each time.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "ray[data]==2.60.0" pyarrow==26.0.1 pandas==3.1.1
RAY_USAGE_STATS_ENABLED=0 "$folder/venv/bin/python" - "$folder/t.parquet" <<'PYTHON'
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray.util.state import list_actors

path = sys.argv[1]
table = pa.table({"number": list(range(10))})
pq.write_table(table, path)
ray.init(num_cpus=2, log_to_driver=False)


def footer_readers():
    actors = list_actors(limit=1000)
    return sum("FooterReader" in actor.class_name for actor in actors)


rows = ray.data.from_arrow(table).take_all()
from_memory = footer_readers()
rows_of_file = ray.data.read_parquet(path).take_all()
from_file = footer_readers() - from_memory
print(f"ray {ray.__version__}: {len(rows)} rows from memory, {from_memory} FooterReader; "
      f"{len(rows_of_file)} rows from a file, {from_file} FooterReader")
ray.shutdown()
sys.exit(not (from_memory == 0 and from_file >= 2))
PYTHON
