# shellcheck shell=bash
# Where the servers' programs are. Sourced after lib.sh.

find_redis() {
    command -v redis-server || command -v valkey-server
}

# find_postgres [MAJOR]: prints the directory with postgres, initdb and psql:
# the newest one, or the one of that major version. Debian keeps them out of
# PATH, so does brew for versioned packages.
find_postgres() {
    local dir on_path
    on_path=$(command -v initdb || true)
    while read -r dir; do
        if [ -x "$dir/postgres" ] && [ -x "$dir/initdb" ] && [ -x "$dir/psql" ]; then
            [ -z "${1:-}" ] || [ "$(postgres_major "$dir")" = "$1" ] || continue
            echo "$dir"
            return 0
        fi
    done < <(
        printf '%s\n' /usr/lib/postgresql/*/bin /usr/pgsql-*/bin \
            /opt/homebrew/opt/postgresql@*/bin /usr/local/opt/postgresql@*/bin | sort -rV
        dirname -- "${on_path:-/nonexistent/initdb}"
    )
    return 1
}

# postgres_major DIR: "postgres (PostgreSQL) 15.18 (Debian …)" -> 15
postgres_major() {
    "$1/postgres" --version | sed 's/[^0-9]*\([0-9]*\).*/\1/'
}

find_chromium() {
    command -v "${CHROMIUM:-chromium}" || command -v chromium-browser || command -v google-chrome
}
