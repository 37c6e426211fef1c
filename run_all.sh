#!/usr/bin/env bash
# The one way in: sets itself up, then runs the suite, its tests or JupyterLab. ./run_all.sh --help
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
venv="$root/.venv"
torch=${DR_TORCH:-}

usage() {
  cat <<'TEXT'
usage: ./run_all.sh [options]            run the notebooks of a profile
       ./run_all.sh --setup              only the set-up
       ./run_all.sh --test [pytest ...]  run the tests; what follows goes to pytest
       ./run_all.sh --lab [jupyter ...]  open JupyterLab at 00_start_here; what follows goes to it
       ./run_all.sh --voila [voila ...]  serve the explorer alone as a page; what follows goes to voila
       ./run_all.sh --help               this text

options:
  --profile mini|paper|FILE.yaml  what the run covers (default: mini)
  --only 01 03 ...                these notebooks only (default: all)
  --from-reference                measure nothing: redraw the paper's own curves from its published numbers
                                  (--profile reference --only 01 03)
  --device auto|cpu|cuda          where networks run (default: auto, a GPU if there is one)
  --data DIR                      the paper's data sets and, in DIR/weights, networks (python -m dr_utils models)
  --out DIR                       results go to DIR/<profile> (default: outputs/<profile>)
  --force                         do again what is finished
  -p NAME VALUE                   a parameter of single notebooks: --only 08 -p model resnet18 -p data photos/
  --cpu-torch                     before any of the above: set up with the small CPU-only build of torch, from
                                  PyTorch's own package index, which must be within reach (or: DR_TORCH=cpu)

environment:
  An active environment (venv or conda) that has this checkout and its requirements is used as it is.
  Otherwise .venv is made here with uv, which pip installs into .uv if there is none on the PATH.
  DR_DATA   used if --data is not given
  DR_HOME   folder of downloaded archives and computed features (default: the platform's user cache folder)

exit status: 0 done, 1 a notebook or test failed (the others still ran), 2 wrong option or input, 3 set-up failed,
130 interrupted. To continue an interrupted run or set-up, give the same command again.
TEXT
}

failed() { printf 'run_all.sh: %s\n' "$1" >&2; exit "${2:-3}"; }
say() { printf 'set-up: %s\n' "$1" >&2; }

# Only what must be known before there is a Python; dr_utils/run/options.py has the rest.
action=run options=()
while (($#)); do
  case $1 in
    -h | --help) usage; exit ;;
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
  rm -rf "$root/.uv"
  # A bare Debian python has no venv module, some have no pip: either will do.
  { "$python" -m venv "$root/.uv" && "$root/.uv/bin/python" -m pip install --quiet uv; } >&2 ||
    { rm -rf "$root/.uv" && "$python" -m pip install --quiet --target "$root/.uv" uv >&2; } ||
    failed "could not install uv with $python; install uv, or python3-venv and pip, and try again"
  "$uv" --version >/dev/null || failed "the uv that pip installed does not run; install uv and try again"
}

# .set_up in .venv says which pins and which build of torch it holds; .set_up_begun is there while it changes.
set_up() {
  local have='' want python lock="$root/requirements.lock" flags=()
  [[ ! -f $venv/.set_up ]] || have=$(<"$venv/.set_up")
  # Without --cpu-torch, the build of torch stays that of the last set-up.
  [[ -n $torch || -z $have ]] || torch=${have##*torch=}
  want="$(cat "$lock" "$root/pyproject.toml" | cksum) torch=${torch:-default}"
  [[ $have != "$want" || ! -x $venv/bin/python ]] || return 0
  find_uv
  if [[ -f $venv/.set_up_begun || -n $have && ${have##*torch=} != "${want##*torch=}" ]]; then
    say "interrupted, or with another build of torch: starting over"
    rm -rf "$venv"
  fi
  if [[ ! -x $venv/bin/python ]]; then
    python=$(system_python) || python=3.12 # uv looks further and may fetch its own
    say "making .venv with $python"
    rm -rf "$venv"
    "$uv" venv --quiet --python "$python" "$venv" || failed "no Python of at least 3.11 found; install one and try again"
  fi
  touch "$venv/.set_up_begun"
  rm -f "$venv/.set_up"
  if [[ $torch == cpu ]]; then
    # Without the GPU libraries, several gigabytes. An environment made by hand may hold the other build of torch.
    lock="$venv/requirements-cpu.lock"
    grep -vE '^(nvidia|cuda|triton)' "$root/requirements.lock" >"$lock"
    flags=(--torch-backend cpu --reinstall-package torch --reinstall-package torchvision)
  fi
  [[ -t 2 ]] || flags+=(--quiet)
  say "installing the packages of requirements.lock (minutes at the first time)"
  # uv, not pip: pip may take a CPU-only torch lying on the machine, which does not go with torchvision.
  "$uv" pip sync --python "$venv/bin/python" ${flags[@]+"${flags[@]}"} "$lock" || {
    [[ $torch != cpu ]] || say "without --cpu-torch the package registry is enough"
    failed "installing the packages failed, see above; the same command tries again"
  }
  # setuptools is in the lock, so that building this package fetches nothing.
  (cd "$root" && "$uv" pip install --quiet --python "$venv/bin/python" --no-deps --no-build-isolation --editable .) ||
    failed "installing this package failed, see above"
  # torch and torchvision only work as a pair from one build: say so here, not in a notebook.
  "$venv/bin/python" -c 'import torch, torchvision; torchvision.ops.nms' ||
    failed "torch and torchvision do not work together in .venv; remove the folder .venv and run ./run_all.sh --setup"
  printf '%s\n' "$want" >"$venv/.set_up"
  rm -f "$venv/.set_up_begun"
  say "done in $SECONDS s"
}

# A wrong option is told before anything is installed.
if [[ $action == run || $action == setup ]] && python=$(system_python); then
  "$python" -I "$root/dr_utils/run/options.py" ${options[@]+"${options[@]}"}
fi
python=
for active in "${VIRTUAL_ENV:-}" "${CONDA_PREFIX:-}"; do
  # A .venv that was set up here is kept in step with the lock instead.
  [[ -n $active && ! ($active == "$venv" && -f $venv/.set_up) ]] || continue
  if suitable "$active/bin/python"; then
    python="$active/bin/python"
    break
  fi
  say "the active environment $active lacks this checkout or its requirements; using .venv here"
done
if [[ -z $python ]]; then
  set_up
  python="$venv/bin/python"
fi

# Commands that a test or notebook starts find this python first. Threads that wait by spinning starve each other.
export PATH="$(dirname "$python"):$PATH" PYTHONHASHSEED=0 OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
case $action in
  setup) say "ready, $python" ;;
  run) exec "$python" -m dr_utils run ${options[@]+"${options[@]}"} ;; # from the caller's folder
  test) cd "$root" && MPLBACKEND=Agg exec "$python" -m pytest ${options[@]+"${options[@]}"} ;;
  *)
    "$python" -c 'import voila' 2>/dev/null || [[ $action == lab ]] ||
      failed "voila is not installed; pip install 'voila>=0.5.8' and try again"
    cd "$root/notebooks" && exec "$python" -m "${action/#lab/jupyterlab}" 00_start_here.ipynb ${options[@]+"${options[@]}"} ;;
esac
