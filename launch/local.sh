#!/usr/bin/env bash
# Runs an experiment on this machine, after making .venv from requirements.lock where that is missing or out of date.
#
#     launch/local.sh                  lists the experiments
#     launch/local.sh NAME [flags]     python -m experiments.NAME flags, in the caller's directory
#     launch/local.sh test [flags]     pytest flags, in the repository; -m slow for the long ones
#     launch/local.sh setup            makes .venv and does nothing else
#
# METAFT_PYTHON names the interpreter to build .venv with (3.11 or newer); by default the first one found.
# METAFT_ACCELERATOR=cuda13|cuda12|tpu adds that extra of the locked JAX; without it JAX runs on the CPU.
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
lock="$root/requirements.lock"
venv="$root/.venv"
accelerator=${METAFT_ACCELERATOR:-}
stamp="$venv/.requirements.lock${accelerator:+.$accelerator}" # a copy of the lock that .venv was made from, written last

fail() {
  printf 'error: %s\n' "$1" >&2
  exit 2
}

is_recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
  local candidate
  if [[ -n ${METAFT_PYTHON:-} ]]; then
    is_recent "$METAFT_PYTHON" || fail "METAFT_PYTHON=$METAFT_PYTHON does not run as Python 3.11 or newer."
    echo "$METAFT_PYTHON"
    return
  fi
  for candidate in python3.13 python3.12 python3.11 python3 python; do
    if is_recent "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  fail "Python 3.11 or newer is needed, found $(python3 --version 2>/dev/null || echo none); install it or set METAFT_PYTHON."
}

list_experiments() {
  local file
  for file in "$root"/experiments/*.py; do
    case ${file##*/} in __init__.py | program.py) continue ;; esac
    file=${file##*/}
    printf '  %-18s %s\n' "${file%.py}" "$(sed -n '1s/^"""//; 1s/"""$//; 1p' "$root/experiments/$file")"
  done
  printf '  %-18s %s\n' 'test' 'Runs the tests; flags go to pytest (-m slow for the long ones).'
}

nearest_experiment() {
  "$1" - "$2" "$root/experiments" <<'PYTHON'
import difflib, pathlib, sys
names = [p.stem for p in pathlib.Path(sys.argv[2]).glob('*.py') if p.stem not in ('__init__', 'program')] + ['test', 'setup']
near = difflib.get_close_matches(sys.argv[1], names, n=1, cutoff=0.5)
print(f'did you mean {near[0]}?' if near else f'allowed are {", ".join(sorted(names))}.')
PYTHON
}

# Makes or completes .venv. What an interrupted start left is completed by the next one, since the stamp comes last.
set_up() {
  local python log="$venv/pip.log"
  trap 'echo "interrupted while setting .venv up; run the same command to go on" >&2; exit 130' INT TERM
  cmp -s "$lock" "$stamp" && return # another start did it while this one waited
  if ! is_recent "$venv/bin/python" || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    python=$(find_python)
    echo "making .venv with $("$python" --version) and the packages of requirements.lock; this takes some minutes, once" >&2
    "$python" -m venv --clear "$venv" >&2 ||
      fail "$python cannot make .venv in $root (told above); is its venv package installed and the directory writable?"
  else
    echo 'bringing .venv up to requirements.lock' >&2
  fi
  if ! "$venv/bin/python" -m pip install --quiet --no-input --disable-pip-version-check --progress-bar off \
    --retries 3 --requirement "$lock" ${accelerator:+"jax[$accelerator]"} >"$log" 2>&1; then
    tail -n 5 "$log" >&2
    if grep -qE 'Retry\(total=0,|ReadTimeoutError|problem confirming the ssl certificate' "$log"; then
      fail "the package index cannot be reached (pip's last lines are above); check the network or pip's index settings, then run the same command again."
    fi
    fail "pip could not install requirements.lock (its last lines are above, all of them in $log)."
  fi
  cp "$lock" "$stamp"
}

set_up_alone() {
  if command -v flock >/dev/null; then
    (
      flock --nonblock 9 || { echo 'waiting for another start to finish setting .venv up' >&2 && flock 9; }
      set_up
    ) 9>"$root/.venv.lock"
  else
    set_up
  fi
}

if (($# == 0)); then
  echo 'usage: launch/local.sh NAME [flags]; --help after a name shows its flags'
  list_experiments
  exit 0
fi
name=$1
shift
if [[ $name != test && $name != setup && (! $name =~ ^[a-z0-9_]+$ || $name == program || ! -f $root/experiments/$name.py) ]]; then
  python=$(find_python)
  fail "there is no experiment $name; $(nearest_experiment "$python" "$name")"
fi
cmp -s "$lock" "$stamp" || set_up_alone

export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
case $name in
  setup) ;;
  test) cd "$root" && exec "$venv/bin/python" -P -m pytest "$@" ;;
  *) exec "$venv/bin/python" -P -m "experiments.$name" "$@" ;;
esac
