#!/usr/bin/env bash
# A whole cohort as one Slurm job: a Ray head on the first node, a worker on each other
# node, and jobs/overnight.py with every argument given here. From the repository's root,
# where `ray` and `digipath` are on PATH (an activated environment is handed on):
#
#   sbatch cluster/slurm.sh SLIDES --preset camelyon17 --weights WEIGHTS --out RUN
#
# Preempted, or shortly before its time is up, the job ends cleanly and goes back into the
# queue; started again it does only what is missing. Exit status: that of overnight.py.
#SBATCH --job-name=digipath
#SBATCH --partition=YOUR-PARTITION
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@180
#SBATCH --open-mode=append
#SBATCH --output=digipath-%j.log
set -euo pipefail

[[ $# -gt 0 ]] || { echo "no slides: sbatch cluster/slurm.sh SLIDES --out RUN ..." >&2; exit 2; }
[[ -f jobs/overnight.py ]] || { echo "submit this from the repository's root" >&2; exit 2; }

# The token of this job alone, in a directory that every node sees and nobody else reads.
job_dir=$PWD/digipath-$SLURM_JOB_ID
install -d -m 700 "$job_dir"
(umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' > "$job_dir/token")
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$job_dir/token RAY_USAGE_STATS_ENABLED=0
# Readers that wait for the networks stay: else Ray ends them, and starts others.
export RAY_idle_worker_killing_time_threshold_ms=600000

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1) # where this runs
head_ip=${DIGIPATH_HEAD_IP:-$(hostname -I | cut -d ' ' -f 1)}
export RAY_ADDRESS=$head_ip:$((20000 + SLURM_JOB_ID % 10000))
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK # srun does not take it from sbatch
ray_dir=/tmp/ray-$SLURM_JOB_ID                 # short: a socket's path has 107 characters
export DIGIPATH_CACHE=${DIGIPATH_CACHE:-$ray_dir/cache}
steps=()

end() {
    trap - EXIT
    rm -rf "$job_dir" # first: a job that is ended has seconds left
    kill "${steps[@]}" 2> /dev/null || true
    wait "${steps[@]}" 2> /dev/null || true
    timeout 20 srun --nodes="$SLURM_NNODES" --ntasks="$SLURM_NNODES" rm -rf "$ray_dir" ||
        rm -rf "$ray_dir"
}
trap end EXIT

# The nodes are one allocation, lost or kept together, so the head's node works as well.
# Two of its cores are left to the head and the driver.
cpus=$((SLURM_CPUS_PER_TASK > 4 ? SLURM_CPUS_PER_TASK - 2 : SLURM_CPUS_PER_TASK))
srun --nodes=1 --ntasks=1 --nodelist="$head" \
    ray start --head --block --node-ip-address="$head_ip" --port="${RAY_ADDRESS##*:}" \
    --num-cpus="$cpus" --temp-dir="$ray_dir" > "$job_dir.head.log" 2>&1 &
steps+=($!)
if ((SLURM_NNODES > 1)); then
    srun --nodes=$((SLURM_NNODES - 1)) --ntasks=$((SLURM_NNODES - 1)) --exclude="$head" \
        ray start --address="$RAY_ADDRESS" --block --num-cpus="$SLURM_CPUS_PER_TASK" \
        > "$job_dir.workers.log" 2>&1 &
    steps+=($!)
fi

# A run divides the nodes that it finds, so it starts when all are there.
timeout 600 python - "$SLURM_NNODES" << 'EOF'
import subprocess, sys, time
import ray

while subprocess.run(["ray", "health-check"], capture_output=True).returncode:
    time.sleep(2)
ray.init(logging_level="ERROR", log_to_driver=False)
while sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[1]):
    time.sleep(2)
EOF

set -m # else a driver in the background ignores SIGINT
python jobs/overnight.py "$@" &
driver=$!
set +m
again=no
# By --signal three minutes are left; preempted, Slurm itself queues the job again.
trap 'again=yes; kill -INT "$driver" || true' USR1
trap 'kill -INT "$driver" || true' TERM
status=0
wait "$driver" || status=$?
while kill -0 "$driver" 2> /dev/null; do # a signal ends wait, and the driver a while later
    status=0
    wait "$driver" || status=$?
done
if [[ $again == yes ]]; then
    end
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
