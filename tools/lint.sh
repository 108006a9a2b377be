#!/usr/bin/env bash
# All linters; every one runs, and the exit code says whether one of them complained.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
export PATH=$PWD/.venv/bin:$PATH
failed=()

check() { # NAME COMMAND...
    local name=$1 start=$SECONDS; shift
    if "$@"; then echo "lint: $name ok ($((SECONDS - start))s)"; else failed+=("$name"); echo "lint: $name FAILED"; fi
}
tracked() { git ls-files --cached --others --exclude-standard -- "$@" | while IFS= read -r f; do [ ! -e "$f" ] || echo "$f"; done; }
shell_files() { { tracked '*.sh'; tracked | xargs -r -d '\n' grep -lsE -m1 '^#!.*\b(ba|da)?sh\b'; } | grep -v '\.j2$' | sort -u; }

mypy_utils() { # by the names that the code imports each other with
    ( cd .venv/collections && MYPYPATH=$PWD mypy --config-file ../../pyproject.toml ansible_collections/njoy/untangle/plugins/module_utils )
}
mapfile -t scripts < <(shell_files)

check ruff ruff check --quiet .
check "ruff format" ruff format --quiet --check .
check mypy mypy_utils
check "argument specs" python tools/check_argument_specs.py
check shellcheck shellcheck --severity=style -x "${scripts[@]}"
check yamllint yamllint --strict .
# --offline: no collection is fetched, they are in .venv
check ansible-lint ansible-lint --offline --profile production --strict --nocolor -q

[ ${#failed[@]} = 0 ] || { echo "lint: failed: ${failed[*]}"; exit 1; }
