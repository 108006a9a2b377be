#!/usr/bin/env bash
# tools/molecule.sh [SCENARIO...]: all scenarios under molecule/, or those named.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH=$PWD/.venv/bin:$PATH
export MOLECULE_GLOB='molecule/*/molecule.yml'
export ANSIBLE_COLLECTIONS_PATH=$PWD/.venv/collections
# nothing in the user's ~/.ansible: an older copy of this collection there must not be tested
export ANSIBLE_HOME=$PWD/.cache/ansible-home
mkdir -p "$ANSIBLE_HOME"
# names of containers and networks, so that two runs side by side do not meet
UNTANGLE_RUN=-$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')
# four free ports in a row, below those of the tests' servers
UNTANGLE_PORT=$(python - <<'PY'
import random
import socket


def free(port):
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


print(next(base for base in iter(lambda: random.randrange(19000, 19996), None) if all(free(base + step) for step in range(4))))
PY
)
export UNTANGLE_RUN UNTANGLE_PORT
docker info >/dev/null 2>&1 || { echo "molecule: no Docker engine answers $(id -un). Run \`make testbed\`; an ordinary user must be in the group docker." >&2; exit 1; }
[ $# -gt 0 ] || mapfile -t < <(for f in molecule/*/molecule.yml; do [ ! -e "$f" ] || basename "$(dirname "$f")"; done)
[ $# -gt 0 ] || set -- "${MAPFILE[@]}"
[ $# -gt 0 ] || { echo "molecule: no scenarios" >&2; exit 1; }
# Side by side, since they mostly wait. Only of one that failed is shown what it printed.
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
for scenario in "$@"; do
    on=()
    # only its own engine is made a swarm
    [ "$scenario" != swarm ] || on=(python tests/engine.py)
    { "${on[@]}" molecule test -s "$scenario" > "$logs/$scenario" 2>&1 && echo ok || echo FAILED; } > "$logs/$scenario.end" &
done
wait
rc=0
for scenario in "$@"; do
    [ "$(cat "$logs/$scenario.end")" = ok ] || { cat "$logs/$scenario"; rc=1; }
done
for scenario in "$@"; do echo "molecule: $scenario $(cat "$logs/$scenario.end")"; done
echo "molecule: took ${SECONDS}s"
exit $rc
