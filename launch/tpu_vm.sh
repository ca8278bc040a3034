#!/usr/bin/env bash
# Runs an experiment on a Cloud TPU VM that holds a checkout of this repository; --dry_run prints the command line.
#
#     launch/tpu_vm.sh [--dry_run] [--checkout=DIR] TPU [gcloud flags] -- NAME [flags]
#     launch/tpu_vm.sh my-tpu --zone=us-central1-a -- tune --train=qa.jsonl --workdir=runs/mine
#
# DIR is relative to the home directory there (default metaft). A program uses the chips of one host: on a slice of
# several hosts give --worker=0, or --worker=all for the same command on each. The data and --workdir are the VM's.
set -euo pipefail

run=()
checkout=metaft
options=()
while (($# > 0)) && [[ $1 != -- ]]; do
  case $1 in
    --dry_run) run=(printf '%q ') ;;
    --checkout=*) checkout=${1#*=} ;;
    *) options+=("$1") ;;
  esac
  shift
done
if (($# < 2 || ${#options[@]} < 1)); then
  echo 'usage: launch/tpu_vm.sh [--dry_run] [--checkout=DIR] TPU [gcloud flags] -- NAME [flags]' >&2
  exit 2
fi
shift # the two dashes
command=$(printf '%q ' cd "$checkout")'&& METAFT_ACCELERATOR=tpu '$(printf '%q ' exec launch/local.sh "$@")
${run[@]+"${run[@]}"} gcloud compute tpus tpu-vm ssh "${options[@]}" --command="${command% }"
((${#run[@]} == 0)) || echo
