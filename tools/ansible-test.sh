#!/usr/bin/env bash
# ansible-test for this checkout: tools/ansible-test.sh sanity [arguments]
# It insists on a real path .../ansible_collections/njoy/untangle, so tracked and new files are copied into such a tree:
# those of the tarball and the unit tests. The rest (demo, tools, the other tests) is no part of a collection.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
checkout=$PWD
work=$checkout/.cache/ansible-test
tree=$work/ansible_collections/njoy/untangle

# all anew, but for ansible-test's own venv
mkdir -p "$tree/tests"
find "$tree" -mindepth 1 -maxdepth 1 ! -name tests -exec rm -rf {} +
find "$tree/tests" -mindepth 1 -maxdepth 1 ! -name output -exec rm -rf {} +
git ls-files -z --cached --others --exclude-standard -- \
    galaxy.yml README.md CHANGELOG.md COPYING docs examples meta playbooks plugins roles tests/config.yml tests/sanity tests/unit \
    | while IFS= read -r -d '' file; do [ ! -e "$file" ] || printf '%s\0' "$file"; done \
    | tar -c --null -T - | tar -x -C "$tree"
# ansible-test lists files with git: the copy is a repository of its own
git init -q "$tree"
printf '/tests/output\n__pycache__\n' > "$tree/.git/info/exclude"
( cd "$tree" && git add -A )
ln -sfn "$checkout/.venv/collections/ansible_collections/community" "$work/ansible_collections/community"

# pyenv's shims answer "not found" for versions that are not selected: the interpreters themselves instead
PATH=$checkout/.venv/bin:$(printf %s "$PATH" | tr : '\n' | grep -v '/\.pyenv/shims' | paste -sd:)
for dir in "$HOME"/.pyenv/versions/3.*/bin; do [ ! -d "$dir" ] || PATH=$PATH:$dir; done
export PATH

# A home of its own: ansible-test's venvs stay in .cache, and nothing of the user's is changed. pip keeps its settings.
for file in "$HOME/.config/pip/pip.conf" "$HOME/.pip/pip.conf"; do
    if [ -e "$file" ] && [ -z "${PIP_CONFIG_FILE:-}" ]; then export PIP_CONFIG_FILE=$file; fi
done
export PIP_CACHE_DIR=${PIP_CACHE_DIR:-$HOME/.cache/pip} HOME=$work/home
mkdir -p "$HOME/.ansible/test/cache"

# ansible-test fetches get-pip.py from a web site. Python's own ensurepip and the configured package index do the same,
# also where only that index can be reached.
for version in $(python - <<'PY'
import pathlib
import re

import ansible_test

text = (pathlib.Path(list(ansible_test.__path__)[0]) / "_internal/python_requirements.py").read_text()
print(*sorted(set(re.findall(r"""\bpip=["'](\d[\d.]*)["']""", text))))
PY
); do
    cat > "$HOME/.ansible/test/cache/get_pip_${version//./_}.py" <<PY
import subprocess, sys
# in a process of its own: ensurepip switches pip's configuration off
subprocess.check_call([sys.executable, "-m", "ensurepip", "--upgrade"], stdout=subprocess.DEVNULL)
extra = [a for a in sys.argv[1:] if a not in ("--no-setuptools", "--no-wheel")]
sys.exit(subprocess.call([sys.executable, "-m", "pip", "install", "-q", *extra, "pip==$version"]))
PY
done

cd "$tree"
exec ansible-test "$@"
