#!/bin/sh
# Passwords of one instance and the users who know them. What is missing is made once. The hashes are put into users.acl
# here, by the shell itself: they never leave this host, and neither they nor passwords are on a command line.
#
#   users.sh SECRETS/NAME CONF_DIR GROUP HEALTH CHECK ACL_LINES < the application's password, or nothing
#
# GROUP may be empty; HEALTH True puts the health check's password beside users.acl; CHECK True changes nothing. Prints a
# line for each file that is (or would be) changed, and last the SHA-256 of users.acl.
set -eu
umask 077
secrets=$1 conf=$2 group=$3 health=$4 check=$5 lines=$6

# put FILE CONTENT MODE: the file holds that and nothing else
put() {
    # a full stop keeps line ends at the end
    if [ "$(cat "$1" 2> /dev/null; echo .)" != "$2." ]; then
        echo "changed ${1##*/}"
        [ "$check" = True ] || { printf '%s' "$2" > "$1.new" && mv "$1.new" "$1"; }
    fi
    [ "$check" = True ] || {
        chmod "$3" "$1"
        if [ "$3" = 0640 ] && [ -n "$group" ]; then chgrp "$group" "$1"; fi
    }
}

given=$(cat)
for kind in app admin health exporter; do
    file=$secrets.$kind
    case $lines in
        *"@$kind@"*) ;;
        *)
            # nobody has it any more
            if [ -e "$file" ]; then
                echo "changed ${file##*/}"
                [ "$check" = True ] || rm "$file"
            fi
            continue
            ;;
    esac
    if [ "$kind" = app ] && [ -n "$given" ]; then
        word=$given
    elif [ -s "$file" ]; then
        word=$(cat "$file")
    else
        word=$(head -c 32 /dev/urandom | base64 | tr -d '=\n' | tr '+/' '-_')
    fi
    put "$file" "$word" 0600
    hash=$(printf '%s' "$word" | sha256sum)
    lines=${lines%%"@$kind@"*}${hash%% *}${lines#*"@$kind@"}
    if [ "$kind$health" = healthTrue ]; then put "$conf/health" "$word" 0640; fi
done
former=$(cat "$conf/users.acl" 2> /dev/null || :; echo .)
put "$conf/users.acl" "$lines" 0640
# A server that does not take them goes on with those it has, and could not start with these.
if [ "$check" != True ] && [ "$former" != "$lines." ] && [ -x "${conf%/*}/instance" ]; then
    answer=$("${conf%/*}/instance" admin ACL LOAD 2>&1 < /dev/null) || :
    case $answer in
        *"no change to the previously active"*)
            printf '%s' "${former%.}" > "$conf/users.acl"
            echo "the server goes on with the users that it has, since it says: $answer. Correct the acl of the purpose." >&2
            exit 1
            ;;
    esac
fi
digest=$(printf '%s' "$lines" | sha256sum)
echo "${digest%% *}"
