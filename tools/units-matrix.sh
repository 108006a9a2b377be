#!/usr/bin/env bash
# The unit tests under the oldest and the newest ansible-core that we support, each with a Python that it runs on.
# Their venvs are kept in .cache; with --venvs they are made and nothing is run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python_of() { # 3.11 -> the path of such an interpreter
    local p
    for p in "python$1" "$HOME/.pyenv/versions/$1".*/bin/python3; do
        if "$p" -c 'import ensurepip, venv' 2>/dev/null; then "$p" -c 'import sys; print(sys.executable)'; return; fi
    done
}

only=${1:-}
ran=0
failed=()
run() { # ANSIBLE-CORE PYTHON
    local core=$1 python venv=.cache/venv-core-$1 wanted
    python=$(python_of "$2")
    if [ -z "$python" ]; then echo "units-matrix: ansible-core $core left out, no Python $2 here"; [ -z "${UNTANGLE_ALL:-}" ] || exit 1; return; fi
    wanted=$({ echo "$core $python"; cat requirements/run.txt requirements/test.txt; } | sha256sum)
    if [ "$(cat "$venv/.made" 2>/dev/null)" != "$wanted" ]; then
        rm -rf "$venv"
        "$python" -m venv "$venv"
        grep -v '^ansible-core' requirements/run.txt > "$venv/run.txt"
        "$venv/bin/python" -m pip install -qq --disable-pip-version-check "ansible-core==$core" -r "$venv/run.txt" -r requirements/test.txt
        echo "$wanted" > "$venv/.made"
    fi
    [ "$only" != --venvs ] || { ran=$((ran + 1)); return; }
    echo "units-matrix: ansible-core $core, $("$python" --version)"
    PATH=$PWD/$venv/bin:$PATH "$venv/bin/python" -m pytest -q tests/unit || failed+=("$core")
    ran=$((ran + 1))
}
run 2.17.14 3.11
run 2.21.5 3.13
[ $ran -gt 0 ] || { echo "units-matrix: neither Python 3.11 nor 3.13 is here" >&2; exit 1; }
[ ${#failed[@]} = 0 ] || { echo "units-matrix: failed under ansible-core ${failed[*]}" >&2; exit 1; }
