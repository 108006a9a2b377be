#!/usr/bin/env bash
# Bring a bare Debian 12 machine to what the tests run on. Idempotent: a stage skips what is there.
#   up.sh servers    server binaries for tests/servers.py (no Docker needed), and Debian's own redis-server
#   up.sh engine     a Docker engine that answers
#   up.sh plugins    docker compose and docker buildx
#   up.sh images     images under the names that a registry would give them: redis, valkey/valkey, nginx, httpd, php, mariadb, njoy/managed-host, prom/prometheus, prom/node-exporter, oliver006/redis_exporter
#   up.sh versions   images of the oldest and the newest server as well: redis:6.0, valkey/valkey:9.1
#   up.sh            servers, engine, plugins, images
#   up.sh down       takes the images and the server binaries away that were made here; packages stay
# REBUILD=1 makes images and binaries again. Everything comes from Debian packages, at the addresses of this machine's
# own apt configuration; no container registry is asked.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
state=${UNTANGLE_TESTBED:-/var/cache/untangle-testbed}
log() { printf 'testbed [%3ss] %s\n' "$SECONDS" "$*"; }
die() { printf 'testbed: %s\n' "$*" >&2; exit 1; }

if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || die "this needs root: run it as root, or install sudo"
    exec sudo UNTANGLE_TESTBED="$state" REBUILD="${REBUILD:-}" "$0" "$@"
fi
# shellcheck source=/dev/null
machine=$(. /etc/os-release && [ "${ID:-}" = debian ] && echo "${VERSION_CODENAME:-}") || machine=
[ -n "$machine" ] || die "this script knows Debian only. Elsewhere, install Docker, compose and redis-server by hand."
next=trixie   # where Redis 8, Valkey 8 and the compose plugin come from

# what the machine's apt uses to reach Debian's archive; third-party sources stay out
sources_for() { # SUITE DIR: the Debian sources of another suite, as a file in DIR; prints its path
    local list=/etc/apt/sources.list deb822=/etc/apt/sources.list.d/debian.sources
    if [ -s "$deb822" ]; then
        grep -v '^[[:space:]]*#' "$deb822" | sed "s/\b$machine\b/$1/g" > "$2/debian.sources"
        echo "$2/debian.sources"
    elif grep -qE "^deb .*\b$machine\b" "$list" 2>/dev/null; then
        grep -E "^deb .*\b$machine\b" "$list" | grep -v cdrom: | sed "s/\b$machine\b/$1/g" > "$2/debian.list"
        echo "$2/debian.list"
    else
        die "no Debian sources in $deb822 or $list"
    fi
}

apt_options() { # proxies and certificates of the machine's apt, one option a line
    apt-config dump | grep -E '^Acquire::(http|https)::' || true
}

bootstrap() { # SUITE TARGET SOURCES OPTIONS...
    local suite=$1 target=$2 sources=$3 options=() line out; shift 3
    while IFS= read -r line; do options+=(--aptopt="$line"); done < <(apt_options)
    out=$(mktemp)
    mmdebstrap --quiet --mode=root "${options[@]}" "$@" \
        --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Languages "none"' \
        --aptopt='Acquire::Check-Valid-Until "false"' "$suite" "$target" "$sources" > "$out" 2>&1 \
        || { tail -20 "$out" >&2; rm -f "$out"; die "could not unpack Debian $suite (see above)"; }
    rm -f "$out"
}

need() { # install what of these packages is missing, without starting their services
    local missing=() package policy=/usr/sbin/policy-rc.d ours=
    for package in "$@"; do
        dpkg-query -W -f '${Status}\n' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    log "apt-get install ${missing[*]}"
    [ -e "$policy" ] || { ours=1; printf '#!/bin/sh\nexit 101\n' > "$policy"; chmod 0755 "$policy"; }
    local rc=0
    { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}"; } \
        > "$state/apt.log" 2>&1 || rc=$?
    [ -z "$ours" ] || rm -f "$policy"
    [ $rc = 0 ] || { tail -20 "$state/apt.log" >&2; die "apt-get could not install ${missing[*]}"; }
}

# -- servers as plain processes ---------------------------------------------------------------------------------------

rootfs() { # SUITE PACKAGE...: packages and all that they need, unpacked side by side, not installed
    local suite=$1 dir=$state/rootfs/$1 tmp; shift
    if [ -e "$dir/.complete" ] && [ -z "${REBUILD:-}" ]; then return; fi
    tmp=$(mktemp -d "$state/rootfs/tmp.XXXXXX")
    chmod 0755 "$tmp"   # apt downloads as a user of its own
    bootstrap "$suite" "$tmp/root" "$(sources_for "$suite" "$tmp")" --variant=extract --include="$(IFS=,; echo "$*")"
    # binaries and libraries are enough
    rm -rf "$tmp/root"/{dev,proc,sys,etc,var,tmp,usr/share} "$dir"
    touch "$tmp/root/.complete"
    mv "$tmp/root" "$dir"
    rm -rf "$tmp"
    log "unpacked $* of Debian $suite"
}

servers() {
    # the first also gives the host backend its server, and the tests redis-cli
    need redis-server redis-tools mmdebstrap ca-certificates debian-archive-keyring
    mkdir -p "$state/rootfs"
    [ "$machine" = bookworm ] || rootfs bookworm redis-server
    rootfs trixie redis-server valkey-server
    rootfs bullseye redis-server
    rootfs forky valkey-server
}

# -- Docker -------------------------------------------------------------------------------------------------------------

engine() {
    local pid=
    # the tests call these
    need iproute2 procps iptables curl openssl ca-certificates
    docker info >/dev/null 2>&1 && { log "a Docker engine answers"; return; }
    need docker.io
    if [ -d /run/systemd/system ]; then
        systemctl start docker || die "the Docker engine did not start: systemctl status docker"
    else
        mkdir -p /etc/docker
        rm -f /var/run/docker.pid
        setsid nohup dockerd >> "$state/dockerd.log" 2>&1 < /dev/null 9>&- &   # it outlives this script: not with the lock
        pid=$!
    fi
    for _ in $(seq 60); do
        docker info >/dev/null 2>&1 && { log "Docker engine up"; return; }
        [ -z "$pid" ] || kill -0 "$pid" 2>/dev/null || break
        sleep 1
    done
    tail -3 "$state/dockerd.log" >&2 2>/dev/null || true
    die "no Docker engine runs on this machine (a container without privileges?). Molecule and the compose backend need one;" \
        "\`make unit lint\` and \`tests/testbed/up.sh servers\` do not."
}

plugins() {
    local dir=/usr/local/lib/docker/cli-plugins apt=$state/apt-$next package
    docker compose version >/dev/null 2>&1 && docker buildx version >/dev/null 2>&1 && { log "docker compose and buildx are there"; return; }
    # Debian 12 has neither; an apt state of its own keeps the machine's package lists as they are
    rm -rf "$apt"
    mkdir -p "$dir" "$apt"/{lists/partial,cache/archives/partial,parts,deb}
    sources_for "$next" "$apt/parts" > /dev/null
    local options=(-o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$apt/parts" -o Dir::State::lists="$apt/lists"
                   -o Dir::Cache="$apt/cache" -o APT::Sandbox::User=root)
    apt-get -qq "${options[@]}" update
    for package in docker-compose docker-buildx; do
        ( cd "$apt/deb" && apt-get -qq "${options[@]}" download "$package" && dpkg -x "$package"_*.deb "$apt/unpacked" )
        install -m 0755 "$apt/unpacked/usr/libexec/docker/cli-plugins/$package" "$dir/$package"
    done
    rm -rf "$apt"
    log "$(docker compose version)"
}

# what is built here says so, with the names that it was given: official ones, which mean other images elsewhere
label=njoy.untangle.testbed
have() { [ -z "${REBUILD:-}" ] && docker image inspect "$1" >/dev/null 2>&1; }

base() { # SUITE: debian:SUITE-slim out of packages
    local suite=$1 tag=debian:$1-slim dir sources
    have "$tag" && return
    need mmdebstrap debian-archive-keyring
    dir=$(mktemp -d "$state/tmp.XXXXXX")
    chmod 0755 "$dir"
    sources=$(sources_for "$suite" "$dir")
    # mmdebstrap names its copy of the sources by a number; an image's own tools look for debian.sources
    bootstrap "$suite" "$dir/root.tar" "$sources" --variant=minbase --include=ca-certificates \
        --dpkgopt='force-unsafe-io' --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        --customize-hook="cd \"\$1/etc/apt/sources.list.d\" && for f in 0000*; do mv \"\$f\" $(basename "$sources"); done"
    # no package may start its service; mmdebstrap removes the file of its own when it ends
    mkdir -p "$dir/add/usr/sbin"
    printf '#!/bin/sh\nexit 101\n' > "$dir/add/usr/sbin/policy-rc.d"
    chmod 0755 "$dir/add/usr/sbin/policy-rc.d"
    tar --append --owner=0 --group=0 -C "$dir/add" -f "$dir/root.tar" ./usr/sbin/policy-rc.d
    docker import -c 'CMD ["bash"]' -c 'ENV DEBIAN_FRONTEND=noninteractive' -c "LABEL $label=$tag" "$dir/root.tar" "$tag" >/dev/null
    rm -rf "$dir"
    log "built $tag"
}

image() { # DIRECTORY BUILD-ARGUMENT... -- TAG...
    local dir=$1 arguments=() tag out; shift
    while [ "$1" != -- ]; do arguments+=(--build-arg "$1"); shift; done; shift
    have "$1" && return
    out=$(mktemp)
    docker build -q --network host "${arguments[@]}" --label "$label=$*" -t "$1" "$here/images/$dir" > "$out" 2>&1 \
        || { tail -30 "$out" >&2; rm -f "$out"; die "could not build $1 (see above)"; }
    rm -f "$out"
    for tag in "${@:2}"; do docker tag "$1" "$tag"; done
    log "built $*"
}

all_of() { # PID...: fails if one of them did
    local pid rc=0
    for pid in "$@"; do wait "$pid" || rc=1; done
    return $rc
}

images() {
    local pids=()
    need mmdebstrap debian-archive-keyring docker-registry   # tests start a registry of their own
    base bookworm & pids+=($!)
    base trixie & pids+=($!)
    all_of "${pids[@]}" || die "base images are missing"
    pids=()
    ( image server BASE=debian:bookworm-slim ENGINE=redis -- redis:7.0 redis:7
      image managed-host BASE=debian:bookworm-slim -- njoy/managed-host:latest njoy/managed-host:bookworm ) & pids+=($!)
    ( image server BASE=debian:trixie-slim ENGINE=redis -- redis:8.0 redis:8 redis:latest
      image server BASE=debian:trixie-slim ENGINE=valkey -- valkey/valkey:8.1 valkey/valkey:8 valkey/valkey:latest ) & pids+=($!)
    ( image tool BASE=debian:bookworm-slim PACKAGE=prometheus PROGRAM=/bin/prometheus DATA=/prometheus -- prom/prometheus:v2.42.0
      image tool BASE=debian:bookworm-slim PACKAGE=prometheus-redis-exporter PROGRAM=/redis_exporter -- \
          oliver006/redis_exporter:v1.45.0-alpine
      image tool BASE=debian:bookworm-slim PACKAGE=prometheus-node-exporter PROGRAM=/bin/node_exporter -- prom/node-exporter:v1.5.0 ) & pids+=($!)
    # what an application brings
    ( image nginx BASE=debian:bookworm-slim -- nginx:1.22
      image httpd BASE=debian:bookworm-slim -- httpd:2.4
      image php-fpm BASE=debian:bookworm-slim -- php:8.2-fpm
      image mariadb BASE=debian:bookworm-slim -- mariadb:10.11 ) & pids+=($!)
    all_of "${pids[@]}" || die "images are missing"
    log "images are there"
}

versions() {
    base bullseye
    image server BASE=debian:bullseye-slim ENGINE=redis -- redis:6.0
    base forky
    image server BASE=debian:forky-slim ENGINE=valkey -- valkey/valkey:9.1 valkey/valkey:9
}

down() {
    local id tag
    while read -r id; do
        for tag in $(docker image inspect -f "{{ index .Config.Labels \"$label\" }}" "$id"); do
            # what somebody built on one of them has its label too
            if [ "$(docker image inspect -f '{{.Id}}' "$tag" 2>/dev/null)" = "$id" ]; then docker rmi "$tag" >/dev/null; fi
        done
    done < <(docker image ls -q --no-trunc --filter "label=$label" 2>/dev/null | sort -u)
    rm -rf "$state/rootfs"
}

mkdir -p "$state"
chmod 0755 "$state"
# two runs at once would unpack over each other
exec 9> "$state/lock"
flock -n 9 || { log "waiting for another run"; flock 9; }
rm -rf "$state"/tmp.* "$state"/rootfs/tmp.*   # left by a run that was broken off
[ $# -gt 0 ] || set -- servers engine plugins images
for stage in "$@"; do
    case "$stage" in
        servers | engine | plugins | images | versions | down) "$stage" ;;
        *) die "usage: $0 [servers] [engine] [plugins] [images] [versions] | down" ;;
    esac
done
log "done: $*"
