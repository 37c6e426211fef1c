#!/usr/bin/env bash
# The one way in: sets itself up, then runs the suite, its tests or JupyterLab. ./run_all.sh --help
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
venv="$root/.venv"

usage() {
  cat <<'TEXT'
usage: ./run_all.sh [options]            run the notebooks of a profile
       ./run_all.sh --setup              only the set-up
       ./run_all.sh --test [pytest ...]  run the tests; what follows goes to pytest
       ./run_all.sh --lab [jupyter ...]  open JupyterLab at 00_start_here; what follows goes to it
       ./run_all.sh --voila [voila ...]  serve the explorer alone as a page; what follows goes to voila
       ./run_all.sh --help

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
  An active environment (venv or conda) that has this checkout and its requirements is used as it is;
  otherwise .venv is made here, with uv (installed for this folder by pip where there is none on the PATH).
  DR_DATA   what --data is if not given
  DR_HOME   folder of downloaded archives and computed features (default: the platform's user cache folder)

exit status: 0 done, 1 a notebook or test failed (the others still ran), 2 wrong option or input, 3 set-up failed,
130 interrupted; interrupted runs and set-ups go on when the same command is given again.
TEXT
}

wrong() { printf 'run_all.sh: %s; see ./run_all.sh --help\n' "$1" >&2; exit 2; }
failed() { printf 'run_all.sh: %s\n' "$1" >&2; exit 3; }
say() { printf '%s\n' "$1" >&2; }

# ---- options: a slip is told before anything is installed

torch=${DR_TORCH:-}
action=run
reference=
chosen=
arguments=()
while (($#)); do
  case $1 in
    -h | --help) usage; exit 0 ;;
    --cpu-torch) torch=cpu; shift ;;
    --setup) action=setup; shift ;;
    --test | --lab | --voila) action=${1#--}; shift; arguments=("$@"); break ;;
    --profile | --device | --data | --out)
      [[ $# -gt 1 && $2 != --* ]] || wrong "$1 needs a value"
      [[ $1 != --profile ]] || chosen=$1
      arguments+=("$1" "$2"); shift 2 ;;
    --profile=* | --device=* | --data=* | --out=* | --force)
      [[ $1 != --profile=* ]] || chosen=--profile
      arguments+=("$1"); shift ;;
    --from-reference) reference=$1; arguments+=("$1"); shift ;;
    -p | --parameter)
      [[ $# -gt 2 && $2 != -* ]] || wrong "$1 needs a name and a value, such as -p model resnet18"
      arguments+=("$1" "$2" "$3"); shift 3 ;;
    --only)
      [[ $# -gt 1 && $2 != --* ]] || wrong "--only needs the number of a notebook, such as 01"
      chosen=$1
      arguments+=("$1"); shift
      while (($#)) && [[ $1 != -* ]]; do arguments+=("$1"); shift; done ;;
    *) wrong "unknown option '$1'" ;;
  esac
done
[[ -z $reference || -z $chosen ]] ||
  wrong "--from-reference stands for --profile reference --only 01 03; leave out $chosen"
[[ -z $torch || $torch == cpu ]] || wrong "DR_TORCH is '$torch'; expected cpu or nothing"

# ---- which python

# Succeeds where a python has this checkout installed, with every requirement at an accepted version.
suitable() {
  [[ -x $1 ]] && (cd / && "$1" -I - "$root" 2>/dev/null) <<'PYTHON'
import sys, tomllib
from importlib.metadata import version
from pathlib import Path

import dr_utils
from packaging.requirements import Requirement

root = Path(sys.argv[1]).resolve()
assert Path(dr_utils.__file__).resolve().parent.parent == root
project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
for line in project["dependencies"] + project["optional-dependencies"]["test"]:
    needed = Requirement(line)
    assert needed.specifier.contains(version(needed.name), prereleases=True), line
PYTHON
}

# The first python of at least 3.11; a shim of a version manager may exist and not work, so each is tried.
system_python() {
  local name
  for name in python3 python3.13 python3.12 python3.14 python3.11 python; do
    if command -v "$name" >/dev/null && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      "$name" -c 'import sys; print(sys.executable)'
      return
    fi
  done
  return 1
}

# ---- set-up of .venv

find_uv() {
  if command -v uv >/dev/null; then
    uv=$(command -v uv)
    return
  fi
  uv="$root/.uv/bin/uv"
  "$uv" --version >/dev/null 2>&1 && return
  local python
  python=$(system_python) || failed "no Python of at least 3.11 found on the PATH; install one (or uv) and try again"
  say "set-up: fetching uv with pip"
  rm -rf "$root/.uv"
  # A bare Debian python has no venv module, some have no pip: either will do.
  { "$python" -m venv "$root/.uv" && "$root/.uv/bin/python" -m pip install --quiet uv; } >&2 ||
    { rm -rf "$root/.uv" && "$python" -m pip install --quiet --target "$root/.uv" uv >&2; } ||
    failed "could not install uv with $python; install uv, or python3-venv and pip, and try again"
  "$uv" --version >/dev/null || failed "the uv that pip installed does not run; install uv and try again"
}

stamp() { (cd "$root" && cat requirements.lock pyproject.toml | cksum); }

# torch and torchvision only work as a pair from one build: say so here, not as a missing operator in a notebook.
verify() {
  "$venv/bin/python" -c 'import torch, torchvision; torchvision.ops.nms' 2>"$venv/.verify" && return
  tail -n 3 "$venv/.verify" >&2
  failed "torch and torchvision do not work together in .venv; remove the folder .venv and run ./run_all.sh --setup again"
}

set_up() {
  local done_file="$venv/.set_up" begun="$venv/.set_up_begun" have=
  [[ -f $done_file ]] && have=$(cat "$done_file")
  # A set-up keeps its build of torch until the other one is asked for.
  [[ -n $torch || -z $have ]] || torch=${have##*torch=}
  [[ $torch == cpu ]] || torch=default
  local want
  want="$(stamp) torch=$torch"
  if [[ $have == "$want" && -x $venv/bin/python ]]; then return; fi

  local start=$SECONDS
  find_uv
  if [[ -f $begun ]]; then
    say "set-up: an earlier one was interrupted, starting over"
    rm -rf "$venv"
  elif [[ -n $have && $have != *"torch=$torch" ]]; then
    say "set-up: another build of torch is asked for, starting over"
    rm -rf "$venv"
  fi
  if [[ ! -x $venv/bin/python ]]; then
    local python
    # Without one on the PATH, uv looks further and may fetch its own.
    python=$(system_python) || python=3.12
    say "set-up: making .venv with $python"
    rm -rf "$venv"
    "$uv" venv --quiet --python "$python" "$venv" || failed "no Python of at least 3.11 found; install one and try again"
  fi
  "$venv/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    failed "the Python in .venv is older than 3.11; remove the folder .venv and try again"
  touch "$begun"
  rm -f "$done_file"

  local lock="$root/requirements.lock" backend=() quiet=()
  [[ -t 2 ]] || quiet=(--quiet)
  if [[ $torch == cpu ]]; then
    # The CPU-only build needs none of the GPU libraries, several gigabytes, that the lock pins for the other.
    lock="$venv/requirements-cpu.lock"
    grep -vE '^(nvidia|cuda|triton)' "$root/requirements.lock" >"$lock"
    # An environment made by hand may hold the other build under the same version.
    backend=(--torch-backend cpu --reinstall-package torch --reinstall-package torchvision)
  fi
  say "set-up: installing the packages of requirements.lock (minutes at the first time)"
  # uv, not pip: pip may take a CPU-only torch lying on the machine, which does not go with torchvision.
  if ! VIRTUAL_ENV="$venv" "$uv" pip install ${quiet[@]+"${quiet[@]}"} \
    --python "$venv/bin/python" ${backend[@]+"${backend[@]}"} -r "$lock"; then
    [[ $torch != cpu ]] || failed "the CPU-only torch could not be installed; without --cpu-torch the package registry is enough"
    failed "installing the packages failed; the reason stands above, the same command tries again"
  fi
  # setuptools is in the lock, so that building this package fetches nothing.
  (cd "$root" && "$uv" pip install --quiet --python "$venv/bin/python" --no-deps --no-build-isolation --editable .) ||
    failed "installing this package failed; the reason stands above"
  verify
  printf '%s\n' "$want" >"$done_file"
  rm -f "$begun"
  say "set-up: done in $((SECONDS - start)) s"
}

python=
for active in "${VIRTUAL_ENV:-}" "${CONDA_PREFIX:-}"; do
  # .venv with the mark of a set-up is kept in step with the lock below.
  [[ -n $active && ! ($active == "$venv" && -f $venv/.set_up) ]] || continue
  if suitable "$active/bin/python"; then
    python="$active/bin/python"
    break
  fi
  say "set-up: the active environment $active lacks this checkout or its requirements; using .venv here"
done
if [[ -z $python ]]; then
  set_up
  python="$venv/bin/python"
fi

# ---- action

# Relative paths stay those of the caller's folder; commands that a test or notebook starts find this python first.
PATH="$(dirname "$python"):$PATH"
# Threads that wait by spinning starve each other wherever other work shares the cores.
export PATH PYTHONHASHSEED=0 OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
case $action in
  setup) say "set-up: ready, $python" ;;
  test)
    cd "$root"
    export MPLBACKEND=Agg
    exec "$python" -m pytest ${arguments[@]+"${arguments[@]}"} ;;
  lab)
    cd "$root/notebooks"
    first=00_start_here.ipynb
    [[ -f $first ]] || first=.
    exec "$python" -m jupyterlab "$first" ${arguments[@]+"${arguments[@]}"} ;;
  voila)
    # An environment made by hand may lack this extra.
    "$python" -c 'import voila' 2>/dev/null || failed "voila is not installed; pip install 'voila>=0.5.8' and try again"
    cd "$root/notebooks"
    exec "$python" -m voila 00_start_here.ipynb ${arguments[@]+"${arguments[@]}"} ;;
  run) exec "$python" -m dr_utils.runner ${arguments[@]+"${arguments[@]}"} ;;
esac
