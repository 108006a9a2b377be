#!/usr/bin/env bash
# Build .venv: `tools/setup.sh` for what the playbooks need, `tools/setup.sh dev` for the test tools as well.
# The Makefile runs it only when a requirements file is newer than the last run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=.venv
say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# ansible-core 2.19 runs on Python 3.11 to 3.13. A pyenv shim answers for versions that are not selected, too:
# only an interpreter that runs and says its version counts.
suits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }
find_python() {
    local p
    for p in ${PYTHON:-} python3 python3.13 python3.12 python3.11 "$HOME"/.pyenv/versions/3.1[1-3].*/bin/python3; do
        if suits "$p"; then "$p" -c 'import sys; print(sys.executable)'; return; fi
    done
    die "no Python 3.11, 3.12 or 3.13 found. Install one, or name it: make setup PYTHON=/path/to/python3"
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; return; fi
    command -v sudo >/dev/null || die "this needs root: $*. Run it as root, or install sudo."
    sudo "$@"
}

make_venv() {
    local python
    # a venv whose interpreter was taken away, or that lies in a checkout that has been moved, is made anew
    if [ "$("$venv/bin/python" -c 'import sys; print(sys.prefix)' 2>/dev/null)" = "$PWD/$venv" ] \
        && head -c 300 "$venv/bin/pip" 2>/dev/null | grep -qF "$PWD/$venv/bin/"; then return; fi
    python=$(find_python)
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        # Debian keeps it in a package of its own
        say "installing python3-venv, which $python lacks"
        as_root apt-get -qq update
        as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends python3-venv >/dev/null
    fi
    say "$venv with $("$python" --version)"
    rm -rf "$venv"
    "$python" -m venv "$venv"
}

pip_install() { "$venv/bin/python" -m pip install -qq --disable-pip-version-check "$@"; }

# The collections named in galaxy.yml, and what those need, come out of the wheel of the PyPI package `ansible`: no Galaxy
# server is asked. ansible.posix is for Molecule's docker driver.
collections=(community.docker community.library_inventory_filtering_v1 ansible.posix)
unpack_collections() {
    local dir=$venv/collections/ansible_collections marker
    marker=$dir/.unpacked-$({ echo "${collections[@]}"; cat requirements/collections.txt; } | cksum | tr -dc 0-9)
    if [ ! -e "$marker" ]; then
        local tmp
        tmp=$(mktemp -d)
        "$venv/bin/python" -m pip download -qq --disable-pip-version-check --no-deps --only-binary :all: \
            --dest "$tmp" --requirement requirements/collections.txt
        rm -rf "$dir"
        mkdir -p "$dir"
        "$venv/bin/python" - "$tmp"/*.whl "$venv/collections" "${collections[@]}" <<'PY'
import sys
import zipfile

wheel, target, *wanted = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive:
    for collection in wanted:
        prefix = f"ansible_collections/{collection.replace('.', '/')}/"
        names = [n for n in archive.namelist() if n.startswith(prefix) and not n.startswith(f"{prefix}tests/")]
        if not names:
            sys.exit(f"{wheel} does not carry {collection}")
        archive.extractall(target, names)
PY
        rm -rf "$tmp"
        touch "$marker"
    fi
    # njoy.untangle is this checkout itself
    mkdir -p "$dir/njoy"
    ln -sfn ../../../.. "$dir/njoy/untangle"
}

make_venv
case "${1:-run}" in
    run)
        pip_install --requirement requirements/run.txt
        unpack_collections ;;
    dev)
        pip_install --requirement requirements/run.txt --requirement requirements/dev.txt ;;
    *) die "usage: tools/setup.sh [run|dev]" ;;
esac
say "${1:-run} ready in ${SECONDS}s"
