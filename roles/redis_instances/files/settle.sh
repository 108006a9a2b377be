#!/bin/sh
# Starts an instance where that is its own program's business, lets it know its users, waits until it answers, keeps in
# mind what it was started with, and asks it what it is like.
#
#   settle.sh PROGRAM START USERS SECONDS LOG MARK TEXT CHECK < commands for the server
#
# START is no, start or restart; USERS is load or no; LOG is the command that shows its last words; MARK and TEXT are the
# file and what to keep in it; CHECK True only asks. Prints a line for each change, the answers as CSV, and what
# becomes of the application's login and of nobody's.
set -eu
program=$1 start=$2 users=$3 seconds=$4 log=$5 mark=$6 text=$7 check=$8

if [ "$check" != True ]; then
    [ "$start" != restart ] || "$program" stop > /dev/null < /dev/null || exit 1
    [ "$start" = no ] || case $("$program" start < /dev/null) in
        started) echo "changed: started"; users=no ;;
        adopted) echo "changed: watched over again" ;;
    esac
    if [ "$users" = load ]; then
        echo "changed: users"
        # The engine's own password may be what changed; a server that does not take the new one reads it at its start.
        [ "$("$program" admin ACL LOAD 2> /dev/null < /dev/null)" = OK ] ||
            { "$program" stop && "$program" start; } > /dev/null < /dev/null
    fi
fi
end=$(($(date +%s) + seconds))
# LOADING is an answer as well, but not this one
until answer=$("$program" health PING 2>&1 < /dev/null) && [ "$answer" = PONG ]; do
    [ "$(date +%s)" -lt "$end" ] || { echo "$answer"; $log; exit 1; } >&2
    sleep 0.2
done
if [ "$check" != True ] && [ "$(cat "$mark" 2> /dev/null)" != "$text" ]; then
    umask 077
    echo "$text" > "$mark.new"
    mv "$mark.new" "$mark"
    echo "changed: mark"
fi
"$program" admin --csv
echo
echo "app $("$program" app PING 2>&1 < /dev/null || :)"
echo "none $("$program" none PING 2>&1 < /dev/null || :)"
