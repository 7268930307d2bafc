# shellcheck shell=bash
# What `make run` keeps in the clone, under .rill/: pid files, logs, the data.
# Sourced after lib.sh, processes.sh, find.sh and services.sh.

RUN=$ROOT/.rill

# One `make run` a clone: two would share the data.
take_the_clone() {
    local other
    mkdir -p "$RUN"
    [ -w "$RUN" ] || die "$RUN belongs to another user: run as that user, or remove it"
    remember "$RUN/mine.$$" $$
    # Of two that start together, one fails to make the link.
    if ! ln "$RUN/mine.$$" "$RUN/run.pid" 2>/dev/null; then
        if other=$(running "$RUN/run.pid"); then
            rm -f "$RUN/mine.$$"
            die "already running in this clone (process $other); a second one needs a clone of its own, and another PORT"
        fi
        mv -f "$RUN/mine.$$" "$RUN/run.pid"
    fi
    rm -f "$RUN/mine.$$"
}

leave_the_clone() { rm -f "$RUN/run.pid"; }

# Ends what a run of this clone has started, in the order in which it depends on
# each other; also what an earlier run left when it was killed.
stop_leftovers() {
    stop "$RUN/rill.pid" TERM KILL
    stop_redis
    stop_postgres
}

# Sets DATA and SERVICE_USER. The data is in .rill/data, or, when root's clone is
# where the servers' user can't get (in /root), in /var/lib/rill/<id of the clone>.
find_home() {
    DATA=$RUN/data
    choose_user "$DATA"
    if [ ! -d "$DATA" ]; then
        mkdir -m 700 "$DATA"
        give_away "$DATA"
    fi
    if reachable "$DATA"; then return 0; fi
    is_root || die "$DATA belongs to another user: run as that user, or remove $RUN"
    rmdir "$DATA" 2>/dev/null ||
        die "$DATA holds data, but user $SERVICE_USER can't get there any more: move the clone back"
    DATA=$(home_outside)
    mkdir -p "$DATA"
    chmod 755 "${DATA%/*}"
    chmod 700 "$DATA"
    choose_user "$DATA"
    give_away "$DATA"
    echo "$ROOT" >"$DATA/clone"
}

# Known by an id in the clone, not by the clone's path: a clone that was moved
# finds its data again, a new clone at the same path starts empty.
home_outside() {
    local id owner
    id=$(cat "$RUN/id" 2>/dev/null || true)
    owner=$(cat "/var/lib/rill/${id:-none}/clone" 2>/dev/null || true)
    # A copy of a clone has copied the id too: it gets one of its own.
    if [ -n "$owner" ] && [ "$owner" != "$ROOT" ] && [ "$(cat "$owner/.rill/id" 2>/dev/null)" = "$id" ]; then
        id=
    fi
    if [ -z "$id" ]; then
        id=$(od -An -N8 -tx1 /dev/urandom | tr -d ' \n')
        echo "$id" >"$RUN/id"
    fi
    echo "/var/lib/rill/$id"
}
