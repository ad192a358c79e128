#!/bin/bash
# Trains over several GPU nodes under Slurm. From the root of a checkout that every node sees:
#
#   sbatch launch/slurm.sh train --config configs/demo.py --workdir /shared/runs/demo
#
# What follows the script's name is passed to `convmesh` in every process. Coordinator, number of
# processes and process id are read from Slurm. Run `check-mesh` first, instead of `train`.
# See docs/machines.md.

# Change these for your cluster (and add --partition, --account, --mem):
#SBATCH --job-name=convmesh
#SBATCH --nodes=2
# With --nodes=1-2 here and --elastic among the flags of convmesh, a requeued job resumes with the
# nodes that are left.
#SBATCH --gpus-per-node=4
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00

# One process for each GPU, so --ntasks-per-node equals --gpus-per-node, as JAX expects under Slurm.
# Each process takes its part of the GPUs that it sees, so every task sees all GPUs of its node.
# For one process per node: --ntasks-per-node=1, and list its GPUs:
# export JAX_LOCAL_DEVICE_IDS=0,1,2,3

# Five minutes before the time limit Slurm sends USR1 to the shell below, which sends TERM to
# convmesh. Leave enough time for a step and a checkpoint. The job is requeued under the same id,
# and its output is appended to the same file.
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out

# With several networks, name the interface that connects the nodes:
# export NCCL_SOCKET_IFNAME=ib0
# export NCCL_DEBUG=INFO
# With a proxy in the environment the processes may fail to connect to each other:
unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY

max_restarts=50 # after so many the job is not requeued any more
stopping=
again=

# This scancel signals the job steps, not this shell.
trap 'stopping=yes; scancel --signal=TERM "$SLURM_JOB_ID"' USR1

# Since Slurm 22.05 srun does not take --cpus-per-task from sbatch. When one process fails, is lost or
# hangs, convmesh ends the others itself, each with the status that says why; --wait ends what is left, later than four times --lost-after.
srun --kill-on-bad-exit=0 --wait=300 --gpu-bind=none --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
  .venv/bin/convmesh "$@" &
wait "$!"
status=$?
if [ -n "$stopping" ]; then # the signal interrupted the first wait; srun still runs
  wait "$!"
  status=$?
fi

# srun returns the highest status. 74: an object store did not answer. 75: stopped by a signal after
# saving. 76, 77: a process was lost or hung. Above 128: it was killed, and the others have ended with
# 76; but 132, 136 and 139 are faults of the program, and 143 is a signal of yours, if not of this
# script.
case $status in
132 | 136 | 139) again= ;;
143) again=$stopping ;;
74 | 75 | 76 | 77) again=yes ;;
*) [ "$status" -gt 128 ] && again=yes ;;
esac
if [ -n "$again" ]; then
  if [ "${SLURM_RESTART_COUNT:-0}" -lt "$max_restarts" ]; then
    echo "convmesh: requeued, to resume from the newest checkpoint"
    scontrol requeue "$SLURM_JOB_ID"
  fi
fi
exit "$status"
