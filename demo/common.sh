# Sourced by run.sh and clean.sh, which stand in the checkout's root.
# shellcheck shell=bash disable=SC2034
say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
die() { printf 'demo: %s\n' "$*" >&2; exit 1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; return; fi
    command -v sudo >/dev/null || die "this needs root: $*. Run it as root, or install sudo."
    sudo "$@"
}

# Root runs the servers as another user, who has to get through every directory above their data.
open_to_others() {
    local dir=$1
    while [ "$dir" != / ]; do
        case $(stat -c %A "$dir") in *[xt]) ;; *) return 1 ;; esac
        dir=$(dirname "$dir")
    done
}

# Everything that the demo makes lies in one directory.
if [ -n "${DEMO_DIR:-}" ]; then
    STATE=$DEMO_DIR
elif [ "$(id -u)" != 0 ] || open_to_others "$PWD/demo"; then
    STATE=$PWD/demo/.state
else
    STATE=/var/lib/untangle-demo
fi
# A tag makes the names of containers and units another demo's: two of them meet neither there nor at their ports.
TAG=${DEMO_TAG:-}
PURPOSES=("sessions$TAG" "pipeline$TAG" "cache$TAG")
SOURCE_CONTAINER=untangle-demo-source$TAG
PYTHON=.venv/bin/python

# ours CONTAINER: whether a container was made from a file below $STATE
ours() { [ "$(docker inspect --format '{{ index .Config.Labels "njoy.untangle.demo" }}{{ index .Config.Labels "com.docker.compose.project.working_dir" }}' "$1" 2>/dev/null | grep -c "^$STATE")" = 1 ]; }
