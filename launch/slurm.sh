#!/bin/bash
# Trains over several GPU nodes under Slurm. From the root of a checkout that every node sees:
#
#   sbatch launch/slurm.sh train --config configs/demo.py --workdir /shared/runs/demo
#
# What follows the script's name goes to `convmesh` in every process. No coordinator, number or id
# is given: JAX reads them from Slurm. First run `check-mesh` in the place of `train ... --workdir`.
# See docs/machines.md.

# Change these for your cluster (and add --partition, --account, --mem):
#SBATCH --job-name=convmesh
#SBATCH --nodes=2
#SBATCH --gpus-per-node=4
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00

# One process for each GPU, so --ntasks-per-node is --gpus-per-node: what JAX expects under Slurm.
# Each takes its share of the GPUs that it sees, so all of a node's are shown to all its tasks.
# One process for each node instead: --ntasks-per-node=1, and name its GPUs:
# export JAX_LOCAL_DEVICE_IDS=0,1,2,3

# Five minutes before the time is up the shell below is told (USR1), and tells convmesh (TERM).
# Leave enough time for a step and a checkpoint. The job is queued again under the same number, and
# its output goes on in the same file.
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out

# Where several networks are up, the one that the nodes share:
# export NCCL_SOCKET_IFNAME=ib0
# export NCCL_DEBUG=INFO
# A proxy in the environment can make the processes wait for each other in vain:
unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY

max_restarts=50 # a run that is stopped more often than this stays stopped
stopping=

# This scancel signals the processes, not this shell.
trap 'stopping=yes; scancel --signal=TERM "$SLURM_JOB_ID"' USR1

# Since Slurm 22.05 srun does not take --cpus-per-task from sbatch.
srun --kill-on-bad-exit=1 --gpu-bind=none --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
  .venv/bin/convmesh "$@" &
wait "$!"
status=$?
if [ -n "$stopping" ]; then # the signal ended that wait, not srun
  wait "$!"
  status=$?
fi

# 75: stopped by a signal after saving. A process that --kill-on-bad-exit ended behind the first one
# makes it 128 and more, which after our own signal means the same.
if [ "$status" -eq 75 ] || { [ -n "$stopping" ] && [ "$status" -gt 128 ]; }; then
  if [ "${SLURM_RESTART_COUNT:-0}" -lt "$max_restarts" ]; then
    echo "convmesh: queued again, to go on from the newest checkpoint"
    scontrol requeue "$SLURM_JOB_ID"
  fi
fi
exit "$status"
