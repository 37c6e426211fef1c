#!/usr/bin/env bash
# The one way in: sets itself up, then runs the suite, its tests or JupyterLab. ./run_all.sh --help
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
venv="$root/.venv" torch=${DR_TORCH:-}

failed() { printf 'run_all.sh: %s\n' "$1" >&2; exit "${2:-3}"; }
say() { printf 'set-up: %s\n' "$1" >&2; }

# Only what must be known before there is a Python; dr_utils/run/options.py has the rest, and the text of --help.
action=run options=()
while (($#)); do
  case $1 in
    -h | --help) action=help options=(--help); break ;;
    --cpu-torch) torch=cpu ;;
    --setup) action=setup ;;
    --test | --lab | --voila) action=${1#--} options=("${@:2}"); break ;;
    *) options+=("$1") ;;
  esac
  shift
done
[[ -z $torch || $torch == cpu ]] || failed "DR_TORCH is '$torch'; expected cpu or nothing" 2

# The first python of at least 3.11; a version manager's shim may exist and not work, so each is tried.
system_python() {
  local name
  for name in python3 python3.13 python3.12 python3.14 python3.11 python; do
    "$name" -c 'import sys; sys.exit(print(sys.executable) if sys.version_info >= (3, 11) else 1)' 2>/dev/null && return
  done
  return 1
}

# Succeeds if a python has this checkout installed, with every requirement at an accepted version.
suitable() {
  [[ -x $1 ]] && (cd / && "$1" -I - "$root" 2>/dev/null) <<'PYTHON'
import sys, tomllib
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from packaging.requirements import Requirement

root = Path(sys.argv[1])
assert Path(find_spec("dr_utils").origin).parent.parent.samefile(root)
project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
for need in map(Requirement, project["dependencies"] + project["optional-dependencies"]["test"]):
    assert need.specifier.contains(version(need.name), prereleases=True), need
PYTHON
}

find_uv() {
  uv=$(command -v uv) && return
  uv="$root/.uv/bin/uv"
  "$uv" --version >/dev/null 2>&1 && return
  local python
  python=$(system_python) || failed "no Python of at least 3.11 found on the PATH; install one (or uv) and try again"
  say "fetching uv with pip"
  # A bare Debian python has no venv module, some have no pip: either will do.
  { "$python" -m venv --clear "$root/.uv" && "$root/.uv/bin/python" -m pip install --quiet uv; } >&2 ||
    { rm -rf "$root/.uv" && "$python" -m pip install --quiet --target "$root/.uv" uv >&2; } ||
    failed "could not install uv with $python; install uv, or python3-venv and pip, and try again"
}

# .venv/.set_up says which pins and which build of torch are there; it is not there while they change.
set_up() {
  local have='' want lock="$root/requirements.lock" flags=() hint=''
  [[ ! -f $venv/.set_up || ! -x $venv/bin/python ]] || have=$(<"$venv/.set_up")
  # Without --cpu-torch, the build of torch stays that of the last set-up.
  torch=${torch:-${have##*torch=}}
  want="$(cat "$lock" "$root/pyproject.toml" | cksum) torch=${torch:-default}"
  [[ $have != "$want" ]] || return 0
  find_uv
  if [[ ${have##*torch=} != "${want##*torch=}" ]]; then
    say "making .venv"
    rm -rf "$venv"
    "$uv" venv --quiet --python "$(system_python || echo 3.12)" "$venv" || # uv looks further and may fetch its own
      failed "no Python of at least 3.11 found; install one and try again"
  fi
  rm -f "$venv/.set_up"
  if [[ $torch == cpu ]]; then
    # Without the GPU libraries, several gigabytes.
    lock="$venv/requirements-cpu.lock" flags=(--torch-backend cpu)
    hint="; without --cpu-torch the package registry is enough"
    grep -vE '^(nvidia|cuda|triton)' "$root/requirements.lock" >"$lock"
  fi
  [[ -t 2 ]] || flags+=(--quiet)
  say "installing the packages of requirements.lock (minutes at the first time)"
  # uv, not pip: pip may take a CPU-only torch lying on the machine, which does not go with torchvision.
  "$uv" pip sync --python "$venv/bin/python" ${flags[@]+"${flags[@]}"} "$lock" ||
    failed "installing the packages failed, see above; the same command tries again$hint"
  # setuptools is in the lock, so that building this package fetches nothing.
  (cd "$root" && "$uv" pip install --quiet --python "$venv/bin/python" --no-deps --no-build-isolation --editable .) ||
    failed "installing this package failed, see above"
  printf '%s\n' "$want" >"$venv/.set_up"
  say "done in $SECONDS s"
}

# A wrong option is told before anything is installed.
if [[ $action =~ run|setup|help ]] && python=$(system_python); then
  "$python" -I "$root/dr_utils/run/options.py" ${options[@]+"${options[@]}"}
  [[ $action != help ]] || exit 0
fi
python=
for active in "${VIRTUAL_ENV:-}" "${CONDA_PREFIX:-}"; do
  # A .venv that was set up here is kept in step with the lock instead.
  if [[ -n $active && ! ($active == "$venv" && -f $venv/.set_up) ]]; then
    suitable "$active/bin/python" && python="$active/bin/python" && break
    say "the active environment $active lacks this checkout or its requirements; using .venv here"
  fi
done
[[ -n $python ]] || { set_up; python="$venv/bin/python"; }

# Commands that a test or notebook starts find this python first. Threads that wait by spinning starve each other.
# Where nothing compiled is kept, as many containers ask, importing takes each of a dozen processes three times as long.
unset PYTHONDONTWRITEBYTECODE
export PATH="$(dirname "$python"):$PATH" PYTHONHASHSEED=0 OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
case $action in
  setup) say "ready, $python" ;;
  run | help) exec "$python" -m dr_utils run ${options[@]+"${options[@]}"} ;; # from the caller's folder
  # A file of tests for each core at a time, at most four: a test of its own needs no more threads.
  test) cd "$root" && MPLBACKEND=Agg OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" exec "$python" -m pytest \
    --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder ${options[@]+"${options[@]}"} ;;
  *) cd "$root/notebooks" &&
    exec "$python" -m "${action/#lab/jupyterlab}" 00_start_here.ipynb ${options[@]+"${options[@]}"} ;;
esac
