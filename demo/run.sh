#!/usr/bin/env bash
# The worked example on this machine: a shared Redis with three databases in use becomes three instances.
# DEMO_BACKEND=host or compose chooses where the instances run, DEMO_DIR where everything of the demo lies. DEMO_TAG (letters and
# digits) and DEMO_PORT keep two demos on one machine apart.
# Arguments go to ansible-playbook.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. demo/common.sh
[ -x .venv/bin/ansible-playbook ] || make setup
began=$SECONDS

# -- what is at hand ------------------------------------------------------------------------------------------------------

# The newest of the images that the engine has already: nothing is pulled.
find_image() {
    local image
    docker info >/dev/null 2>&1 && docker compose version >/dev/null 2>&1 || return 1
    for image in redis:8.0 redis:8 redis:7.2 redis:7.0 redis:7; do
        if docker image inspect "$image" >/dev/null 2>&1; then echo "$image"; return; fi
    done
    return 1
}

install_redis() {
    say "Installing redis-server"
    # The package would start a server of its own on port 6379.
    # shellcheck disable=SC2016
    as_root sh -ec '
        policy=/usr/sbin/policy-rc.d
        if [ ! -e $policy ]; then trap "rm -f $policy" EXIT; printf "#!/bin/sh\nexit 101\n" > $policy; chmod 755 $policy; fi
        apt-get -qq update
        DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends redis-server >/dev/null
        if [ -d /run/systemd/system ]; then systemctl disable --quiet redis-server; fi'
}

demo/clean.sh --quiet
image=
backend=${DEMO_BACKEND:-}
if [ "$backend" != host ] && image=$(find_image); then
    backend=compose
elif [ "$backend" = compose ]; then
    die "DEMO_BACKEND=compose needs a Docker engine with the compose plugin, and an image redis:7.0 or later. Neither is brought by the demo."
else
    backend=host
    PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
    command -v redis-server >/dev/null || install_redis
fi
for purpose in "${PURPOSES[@]}"; do
    # A real split on this machine has the same names, and must not be touched.
    if { command -v docker >/dev/null && docker inspect "untangle-$purpose" >/dev/null 2>&1; } \
        || [ -e "/etc/systemd/system/untangle-$purpose.service" ]; then
        die "untangle-$purpose exists on this machine and is not the demo's. The demo would use the same name; run it on another machine."
    fi
done

mkdir -p "$STATE/source"
chmod 711 "$STATE"
# The worked example's ports where they are free, else the first four in a row that are.
read -r p_source p_pipeline p_cache p_sessions p_app < <("$PYTHON" - <<PY
import socket

def free(port):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True

first = next(base for base in range(${DEMO_PORT:-6379}, 32000, 100) if all(free(base + step) for step in range(5)))
print(*(first + step for step in range(5)))
PY
)
password=$("$PYTHON" -c 'import secrets; print(secrets.token_urlsafe(16))')

# -- the shared server and the application --------------------------------------------------------------------------------

say "A shared Redis on 127.0.0.1:$p_source, with sessions in db 0, a pipeline in db 5 and a cache in db 10"
cat > "$STATE/source/redis.conf" <<CONF
requirepass $password
databases 16
save 3600 1
CONF
if [ "$backend" = compose ]; then
    # inside a container the image's entrypoint gives up root, so its user has to read the file
    chmod 644 "$STATE/source/redis.conf"
    docker run -d --name "$SOURCE_CONTAINER" --label "njoy.untangle.demo=$STATE" -p "127.0.0.1:$p_source:6379" \
        -v "$STATE/source/redis.conf:/redis.conf:ro" "$image" redis-server /redis.conf >/dev/null
else
    chmod 600 "$STATE/source/redis.conf"
    cat >> "$STATE/source/redis.conf" <<CONF
port $p_source
bind 127.0.0.1
dir $STATE/source
daemonize yes
pidfile $STATE/source/source.pid
logfile $STATE/source/log
CONF
    redis-server "$STATE/source/redis.conf"
fi
"$PYTHON" demo/seed.py "$p_source" "$STATE/source/redis.conf"

( umask 077; cat > "$STATE/shop.env" <<ENV
# The shop's settings. The split changes where Redis is, and nothing else.
export SHOP_PORT=$p_app
export SESSION_URL=redis://:$password@127.0.0.1:$p_source/0
export CACHE_URL=redis://:$password@127.0.0.1:$p_source/10   # pages
export QUEUE_HOST=127.0.0.1
export QUEUE_PORT=$p_source
export QUEUE_DB=5
export QUEUE_PASSWORD=$password
ENV
)
"$PYTHON" demo/app.py start "$STATE"
"$PYTHON" demo/app.py wait "$STATE"

# -- the split, as a user runs it -----------------------------------------------------------------------------------------

cat > "$STATE/inventory.yml" <<YAML
# One machine plays all parts: the new instances, and the application.
redis_split_hosts:
  hosts:
    localhost:
redis_split_app_hosts:
  hosts:
    localhost:
all:
  vars:
    ansible_connection: local
    ansible_python_interpreter: "{{ ansible_playbook_python }}"
YAML
( umask 077; cat > "$STATE/vars.yml" <<YAML
redis_split_source: {host: 127.0.0.1, port: $p_source, password: "$password"}
redis_split_purposes:
  - {name: sessions$TAG, database: 0, port: $p_sessions, profile: sessions, maxmemory: 512mb}
  - {name: pipeline$TAG, database: 5, port: $p_pipeline, profile: queue, maxmemory: 1gb}
  - {name: cache$TAG, database: 10, port: $p_cache, profile: cache, maxmemory: 2gb}
redis_split_apps:
  - name: shop
    files:
      - path: $STATE/shop.env
        set:
          SESSION_URL: sessions$TAG
          CACHE_URL: cache$TAG
          QUEUE_HOST: pipeline$TAG.host
          QUEUE_PORT: pipeline$TAG.port
          QUEUE_DB: pipeline$TAG.database
          QUEUE_USER: pipeline$TAG.user
          QUEUE_PASSWORD: pipeline$TAG.password
    restart: $PWD/$PYTHON $PWD/demo/app.py restart $STATE
    health: $PWD/$PYTHON $PWD/demo/app.py health $STATE
redis_split_backend: $backend
redis_split_image: "$image"
# what the demo needs beside the worked example: a place of its own, and no root
redis_split_state_dir: $STATE/untangle
redis_split_report_path: $STATE/report.html
redis_split_become: false
YAML
)
[ -n "$image" ] || sed -i '/^redis_split_image/d' "$STATE/vars.yml"
say "ansible-playbook -i $STATE/inventory.yml playbooks/split-redis.yml -e @$STATE/vars.yml $*"
.venv/bin/ansible-playbook -i "$STATE/inventory.yml" playbooks/split-redis.yml -e "@$STATE/vars.yml" "$@" 2>&1 | tee "$STATE/run.log"

# -- what came of it ------------------------------------------------------------------------------------------------------

"$PYTHON" demo/app.py wait "$STATE"
"$PYTHON" demo/show.py "$STATE"
cat <<END

  Instances    $backend${image:+, $image}
  Report       $STATE/report.html
  Go back      .venv/bin/ansible-playbook -i $STATE/inventory.yml playbooks/rollback.yml -e @$STATE/vars.yml
  Take away    make demo-clean
  Took         $((SECONDS - began)) s
END
