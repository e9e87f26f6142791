#!/bin/bash
#SBATCH --job-name=rrm-transfer
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@300
#SBATCH --output=%x-%j.log

# Five minutes before its time is up the run gets SIGTERM and saves its state; the job is then queued again, at
# most 20 times, and goes on. One that is finished says so and ends with 0.
RUN=${RUN:-runs/imagenet-$SLURM_JOB_NAME}
MASTER=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export RUN MASTER

srun bash -c 'exec accelerate launch \
  --multi_gpu \
  --num_machines "$SLURM_NNODES" \
  --num_processes "$((SLURM_NNODES * SLURM_GPUS_ON_NODE))" \
  --machine_rank "$SLURM_NODEID" \
  --main_process_ip "$MASTER" \
  --main_process_port 29500 \
  -m rrm_transfer run "$@" --output "$RUN" --resume' bash "$@"
code=$?
# A launcher ends with 1 whatever the run's own code was, so that a mistake looks like an interruption.
[ "$code" -eq 0 ] || [ "${SLURM_RESTART_COUNT:-0}" -ge 20 ] || scontrol requeue "$SLURM_JOB_ID"
exit "$code"
