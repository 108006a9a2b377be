#!/usr/bin/env bash
# Take away what the demo made: processes, containers, volumes, units, files. Nothing else is touched.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. demo/common.sh

# A pid file may be old, and its number somebody else's by now: the process must name our directory or work in it.
stop() {
    local pid=$1 left=100
    case $pid in '' | *[!0-9]*) return 0 ;; esac
    { tr '\0' ' ' < "/proc/$pid/cmdline" | grep -qF "$STATE"; } 2>/dev/null \
        || case $(readlink "/proc/$pid/cwd" 2>/dev/null) in "$STATE" | "$STATE"/*) ;; *) return 0 ;; esac
    kill "$pid" 2>/dev/null || return 0
    # a process that has ended and waits for its parent has no command line any more
    while [ -n "$(tr -d '\0' 2>/dev/null < "/proc/$pid/cmdline")" ]; do
        left=$((left - 1))
        if [ "$left" = 0 ]; then kill -9 "$pid" 2>/dev/null || true; fi
        sleep 0.1
    done
}

found=
if [ -d "$STATE" ]; then
    found=1
    # The engine's jobs first, then supervisors, which would start their servers again.
    for pid in $(grep -rhoE '"pid": [0-9]+' --include '*.json' "$STATE/untangle" 2>/dev/null | tr -dc '0-9\n'); do stop "$pid"; done
    for purpose in "${PURPOSES[@]}"; do
        unit=/etc/systemd/system/untangle-$purpose.service
        if grep -qsF "$STATE" "$unit"; then
            as_root systemctl disable --now --quiet "untangle-$purpose"
            as_root rm -f "$unit"
            as_root systemctl daemon-reload
        fi
    done
    for name in shop.pid supervisor.pid server.pid source.pid; do
        find "$STATE" -name "$name" 2>/dev/null | while read -r file; do stop "$(cat "$file")"; done
    done
fi
if command -v docker >/dev/null && docker info >/dev/null 2>&1; then
    for purpose in "${PURPOSES[@]}"; do
        if ours "untangle-$purpose"; then
            found=1
            docker compose --project-name "untangle-$purpose" down --volumes --remove-orphans --timeout 5 >/dev/null 2>&1
        elif [ -e "$STATE/untangle/instances/$purpose/compose.yaml" ] && ! docker inspect "untangle-$purpose" >/dev/null 2>&1; then
            # broken off between the volume and the container
            docker volume rm "untangle-${purpose}_data" >/dev/null 2>&1 || true
        fi
    done
    if ours "$SOURCE_CONTAINER"; then
        found=1
        docker rm -fv "$SOURCE_CONTAINER" >/dev/null
    fi
fi
rm -rf "$STATE"
[ "${1:-}" = --quiet ] || if [ -n "$found" ]; then echo "demo: taken away"; else echo "demo: nothing was there"; fi
