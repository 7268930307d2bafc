# shellcheck shell=bash
# Starting, recognising and ending processes. Sourced after lib.sh.
#
# A process is known by its pid *and* the time it started, so that a pid file
# left by a run that was killed never points at somebody else's process.

# process_start PID: prints when it started; fails when it isn't running.
process_start() {
    if [ -r /proc/self/stat ]; then
        local stat
        { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 1
        # The fields after "(name) ": state is the 1st, start time the 20th.
        # shellcheck disable=SC2086 # split on purpose
        set -- ${stat##*) }
        [ "$1" != Z ] && echo "${20}"
    else
        local start
        start=$(LC_ALL=C TZ=UTC ps -o lstart= -p "$1") && [ -n "$start" ] && echo "$start"
    fi
}

# remember FILE PID: FILE appears whole, so that nobody reads half of it.
remember() {
    local start
    start=$(process_start "$2") || start=gone
    printf '%s %s\n' "$2" "$start" >"$1.$$"
    mv -f "$1.$$" "$1"
}

# running FILE: prints the pid that FILE remembers, when that process still runs.
running() {
    local pid start
    { read -r pid start <"$1"; } 2>/dev/null || return 1
    [ "$(process_start "$pid")" = "$start" ] && echo "$pid"
}

# stop FILE SIGNAL LAST: ends the process that FILE remembers; LAST is the
# signal for one that has not ended after 40 seconds.
stop() {
    local file=$1 signal pid tries
    for signal in "$2" "$3"; do
        pid=$(running "$file") || break
        kill -s "$signal" "$pid" 2>/dev/null ||
            ! running "$file" >/dev/null ||
            die "process $pid (${file##*/}) is of an earlier run and can't be stopped by this user"
        for ((tries = 400; tries > 0; tries--)); do
            running "$file" >/dev/null || break 2
            sleep 0.1
        done
    done
    rm -f "$file"
}

# --- One child in front, with signals passed on to it -----------------------

CHILD=      # its process group, or "starting"
STOPPING=   # once a signal has come: the status that says so
INTERRUPT=  # the last signal, until run_child has seen it

on_signal() {
    STOPPING=$((128 + $2))
    INTERRUPT=$1
    case $CHILD in
    '') exit "$STOPPING" ;;
    starting) ;; # run_child passes it on as soon as it knows whom to
    *) kill -s "$1" -- "-$CHILD" 2>/dev/null || true ;;
    esac
}

pass_signals() {
    trap 'on_signal HUP 1' HUP
    trap 'on_signal INT 2' INT
    trap 'on_signal TERM 15' TERM
}

# run_child CMD...: runs it in a process group of its own and returns its
# status; remembers it in CHILD_FILE, when that is set. A Ctrl-C so reaches it once, through us, and never the servers that
# it works with; and a SIGTERM sent to this script alone reaches it as well.
run_child() {
    local status
    CHILD=starting
    INTERRUPT=
    set -m
    # In a group of its own it must not read from the terminal.
    if [ -t 0 ]; then "$@" </dev/null & else "$@" <&0 & fi
    CHILD=$!
    set +m
    [ -z "${CHILD_FILE:-}" ] || remember "$CHILD_FILE" "$CHILD"
    [ -z "$INTERRUPT" ] || kill -s "$INTERRUPT" -- "-$CHILD" 2>/dev/null || true
    while :; do
        INTERRUPT=
        status=0
        wait "$CHILD" || status=$?
        # A signal ends `wait` early; the child then has yet to end.
        [ -n "$INTERRUPT" ] || break
    done
    # What it left behind in its group.
    kill -s TERM -- "-$CHILD" 2>/dev/null || true
    CHILD=
    return "$status"
}

# --- Servers in the background ----------------------------------------------

# spawn NAME USER DIR CMD...: starts a server in DIR, as USER unless empty.
# Its pid goes to $RUN/NAME.pid, what it prints to $RUN/NAME.log.
spawn() {
    local name=$1 user=$2 dir=$3
    shift 3
    as_user "$user"
    # Where the kernel offers it, the server ends with this script, even when
    # this script is killed outright. (SIGINT: a clean and prompt stop of both.
    # After the change of user, which would undo it.)
    if setpriv --pdeathsig INT true 2>/dev/null; then
        AS+=(setpriv --pdeathsig INT)
    fi
    rm -f "$RUN/$name.log"
    set -m # a group of its own: Ctrl-C is not for it
    (cd "$dir" && exec ${AS[@]+"${AS[@]}"} "$@") </dev/null >"$RUN/$name.log" 2>&1 &
    remember "$RUN/$name.pid" $!
    set +m
}

# as_user USER: sets AS to the words that make a command run as USER.
as_user() {
    AS=()
    [ -n "$1" ] || return 0
    command -v setpriv >/dev/null ||
        die "running as root needs setpriv (package util-linux); or run as an ordinary user"
    AS=(setpriv "--reuid=$1" "--regid=$(id -g "$1")" --init-groups --)
}

# until_ready NAME CHECK...: waits for CHECK to pass; fails when the server has
# ended. A database that recovers from a crash may take its time.
until_ready() {
    local name=$1 tries
    shift
    for ((tries = 600; tries > 0; tries--)); do
        if "$@"; then return 0; fi
        running "$RUN/$name.pid" >/dev/null || return 1
        sleep 0.1
    done
    return 1
}

# give_up NAME: says why a server did not start.
give_up() {
    tail -n 15 "$RUN/$1.log" >&2 || true
    die "$1 did not start; the end of its log is above"
}
