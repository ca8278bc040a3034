#!/usr/bin/env bash
# Submits an experiment to SLURM as one job on one node; --dry_run prints the command line instead.
#
#     launch/slurm.sh [--dry_run] [sbatch options] -- NAME [flags]
#     launch/slurm.sh --gpus=1 --time=04:00:00 -- tune --train=qa.jsonl --workdir=runs/mine
#
# The job gets SIGTERM two minutes before its time is over, saves, and goes on when the same command is submitted
# again (--requeue does so after a preemption). Set METAFT_ACCELERATOR=cuda13 in the environment for GPUs.
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
run=(sbatch)
options=()
while (($# > 0)) && [[ $1 != -- ]]; do
  if [[ $1 == --dry_run ]]; then run=(printf '%q '); else options+=("$1"); fi
  shift
done
if (($# < 2)); then
  echo 'usage: launch/slurm.sh [--dry_run] [sbatch options] -- NAME [flags]' >&2
  exit 2
fi
shift # the two dashes
job=$(printf '%q ' exec "$root/launch/local.sh" "$@") # exec: the signal goes to the batch shell, which is the program
[[ ${run[0]} == sbatch ]] || run+=(sbatch)
"${run[@]}" --job-name="metaft-$1" --requeue --signal=B:TERM@120 --export=ALL ${options[@]+"${options[@]}"} --wrap="${job% }"
[[ ${run[0]} == sbatch ]] || echo
