#!/usr/bin/env bash
# Build the tarball, install it where nothing else is, and use it as somebody who has only that:
# what it contains, ansible-doc of every module, role and filter, and the playbooks by their FQCN.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
checkout=$PWD
export PATH=$checkout/.venv/bin:$PATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { printf 'build: %s\n' "$*" >&2; exit 1; }

mkdir -p dist
rm -f dist/*.tar.gz
ansible-galaxy collection build --force --output-path dist >/dev/null
tarball=$(ls dist/njoy-untangle-*.tar.gz)

# nothing of the development gets in, and nothing big
extra=$(tar -tzf "$tarball" | cut -d/ -f1 | sort -u \
    | grep -vxE 'FILES.json|MANIFEST.json|README.md|COPYING|CHANGELOG.(md|rst)|changelogs|docs|examples|meta|playbooks|plugins|roles' || true)
[ -z "$extra" ] || fail "not meant for users, add to build_ignore in galaxy.yml: ${extra//$'\n'/ }"
junk=$(tar -tzf "$tarball" | grep -E '__pycache__|\.pyc$|/\.[^/]*_cache' | head -3 || true)
[ -z "$junk" ] || fail "build products in the tarball: $junk"
[ "$(stat -c %s "$tarball")" -lt 2000000 ] || fail "$tarball is larger than 2 MB"

# an empty home, no ansible.cfg, another directory
export HOME=$work/home ANSIBLE_HOME=$work/ansible ANSIBLE_CONFIG=$work/ansible.cfg ANSIBLE_COLLECTIONS_PATH=$work/collections ANSIBLE_LOCALHOST_WARNING=false
touch "$ANSIBLE_CONFIG"
mkdir -p "$HOME" "$work/collections/ansible_collections"
ansible-galaxy collection install --offline --no-deps -p "$work/collections" "$tarball" >/dev/null
ln -s "$checkout/.venv/collections/ansible_collections/community" "$work/collections/ansible_collections/community"
cd "$work"
installed=$work/collections/ansible_collections/njoy/untangle

document() { # TYPE NAME...
    local type=$1 name; shift
    for name in "$@"; do
        if ! ansible-doc -t "$type" "njoy.untangle.$name" > doc.txt 2> doc.err || [ ! -s doc.txt ] || grep -q ERROR doc.err; then
            cat doc.err >&2
            fail "ansible-doc -t $type njoy.untangle.$name shows no documentation"
        fi
    done
    echo "build: ansible-doc shows $# of type $type: $*"
}
listed() { ansible-doc -t "$1" -l njoy.untangle 2> doc.err | sed -n 's/^njoy\.untangle\.\([a-z0-9_]*\) .*/\1/p'; }
mapfile -t modules < <(for file in "$installed"/plugins/modules/[a-z]*.py; do basename "$file" .py; done)
mapfile -t roles < <(ls "$installed/roles")
mapfile -t filters < <(listed filter)
document module "${modules[@]}"
document role "${roles[@]}"
document filter "${filters[@]}"
sed -n 's/^    - //p' "$installed/meta/runtime.yml" | while IFS= read -r name; do
    printf '%s\n' "${modules[@]}" | grep -qx "$name" || fail "meta/runtime.yml names a module $name that is not there"
done

count=0
for file in "$installed"/playbooks/*.yml; do
    name=$(basename "$file" .yml)
    # a name with a dash is no FQCN; that file is for the checkout
    case "$name" in *-* | \*) continue ;; esac
    ansible-playbook -i localhost, --syntax-check "njoy.untangle.$name" > syntax.txt 2>&1 || { cat syntax.txt >&2; fail "njoy.untangle.$name --syntax-check fails"; }
    count=$((count + 1))
done
[ $count -gt 0 ] || fail "the tarball has no playbooks"
echo "build: $(basename "$tarball"), $(tar -tzf "$checkout/$tarball" | wc -l) files; $count playbooks pass --syntax-check by FQCN"
