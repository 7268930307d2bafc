# shellcheck shell=bash
# A private redis-server and a private postgres: on 127.0.0.1, on free ports,
# with data in a directory of their own. Servers that were not started here are
# never touched. Sourced after lib.sh, processes.sh and find.sh.
#
# Callers set RUN (where pid files and logs go), DATA (where the servers' data
# goes) and SERVICE_USER, by choose_user. DURABLE=yes: the data survives a power
# cut, and the servers ask for a password, as other users of the machine reach
# them too. DURABLE=no, for tests: neither, and faster.
DURABLE=yes

# postgres refuses to run as root, so with root both servers run as somebody
# else. choose_user DIR: as the owner of DIR's data when there is some.
choose_user() {
    local user
    SERVICE_USER=
    is_root || return 0
    for user in "$(stat -c %U "$1" 2>/dev/null || stat -f %Su "$1" 2>/dev/null)" postgres nobody; do
        if [ -n "$user" ] && [ "$user" != root ] && id "$user" >/dev/null 2>&1; then
            SERVICE_USER=$user
            return 0
        fi
    done
    die "postgres can't run as root, and there is no user to run it as: add one named postgres"
}

# reachable DIR: whether the servers' user gets there; a clone may be in /root.
reachable() {
    as_user "$SERVICE_USER"
    ${AS[@]+"${AS[@]}"} test -w "$1"
}

give_away() {
    [ -z "$SERVICE_USER" ] || chown "$SERVICE_USER" "$@"
}

# The password, made up once and kept beside the data.
password() {
    local file=$DATA/password
    [ -s "$file" ] || (umask 077 && od -An -N24 -tx1 /dev/urandom | tr -d ' \n' >"$file")
    give_away "$file"
    cat "$file"
}

start_redis() {
    local program secret='' port
    program=$(find_redis)
    mkdir -p "$DATA/redis"
    [ "$DURABLE" = no ] || secret=$(password)
    for _ in 1 2 3; do
        port=$(free_port)
        (umask 077 && redis_settings "$port" "$secret" >"$DATA/redis/redis.conf")
        give_away "$DATA/redis" "$DATA/redis/redis.conf"
        spawn redis "$SERVICE_USER" "$DATA/redis" "$program" redis.conf
        if until_ready redis redis_answers "$port" "$secret"; then
            export REDIS_URL="redis://${secret:+:$secret@}127.0.0.1:$port"
            return 0
        fi
        stop_redis
    done
    give_up redis
}

# Relative paths: the server is started in its directory.
redis_settings() {
    cat <<-END
		bind 127.0.0.1
		port $1
		dir ./
		appendonly yes
		appendfsync everysec
		# A read walks its node of the stream from the beginning (default: 100).
		stream-node-max-entries 16
		save ""
		maxmemory-policy noeviction
		daemonize no
	END
    [ -z "$2" ] || echo "requirepass $2"
}

# Asks over a bare socket, as redis-cli may be missing; that it is *our* server
# on that port, and that it has loaded its data.
redis_answers() {
    local info pid
    pid=$(running "$RUN/redis.pid") || return 1
    info=$({
        exec 3<>"/dev/tcp/127.0.0.1/$1"
        printf '%sINFO\r\nQUIT\r\n' "${2:+AUTH $2$'\r\n'}" >&3
        tr -d '\r' <&3
    } 2>/dev/null) || return 1
    [[ $info == *"process_id:$pid"$'\n'* && $info == *$'\n'loading:0$'\n'* ]]
}

start_postgres() {
    local dir=$DATA/postgres port settings secret=''
    POSTGRES_BIN=$(postgres_for "$dir")
    export POSTGRES_BIN
    # PGHOST and the like would redirect psql, and sqlx as well.
    unset "${!PG@}"
    [ "$DURABLE" = no ] || secret=$(password)
    [ -d "$dir" ] || create_cluster "$dir"
    # No Unix socket: its path may not be longer than 107 bytes, the clone's may.
    settings=(-c listen_addresses=127.0.0.1 -c unix_socket_directories=)
    if [ "$DURABLE" = no ]; then
        settings+=(-c "fsync=${FSYNC:-off}" -c "full_page_writes=${FSYNC:-off}" -c max_connections=600
            -c shared_preload_libraries=pg_stat_statements)
    fi
    for _ in 1 2 3; do
        port=$(free_port)
        spawn postgres "$SERVICE_USER" "$dir" \
            "$POSTGRES_BIN/postgres" -D "$dir" -p "$port" "${settings[@]}"
        if until_ready postgres postgres_answers "$dir" "$port" "$secret"; then
            [ -n "$(sql "$port" "$secret" -c "SELECT 1 FROM pg_database WHERE datname = 'rill'")" ] ||
                sql "$port" "$secret" -c 'CREATE DATABASE rill'
            export DATABASE_URL="postgres://rill${secret:+:$secret}@127.0.0.1:$port/rill"
            return 0
        fi
        stop_postgres
        # After a crash the old server's children may need a moment to notice.
        sleep 1
    done
    give_up postgres
}

# postgres_for DIR: the programs for the data in DIR; a major version can't
# open another's data.
postgres_for() {
    local major
    [ -f "$1/PG_VERSION" ] || { find_postgres; return; }
    major=$(cat "$1/PG_VERSION")
    find_postgres "$major" ||
        die "the data in $1 is of PostgreSQL $major, which is not installed: install it, or start afresh with \`make forget\`"
}

create_cluster() {
    local dir=$1 auth=(--auth=trust --no-sync)
    [ "$DURABLE" = no ] || auth=(--auth=password "--pwfile=$DATA/password")
    say "creating a database cluster"
    as_user "$SERVICE_USER"
    # Under another name until it is whole: initdb may be interrupted.
    rm -rf "$dir.new"
    if [ -n "${STANDBY_OF:-}" ]; then
        (cd "$DATA" && ${AS[@]+"${AS[@]}"} "$POSTGRES_BIN/pg_basebackup" -D "$dir.new" \
            -d "$STANDBY_OF" --write-recovery-conf --checkpoint=fast --no-sync) \
            >"$RUN/postgres.log" 2>&1 </dev/null || give_up postgres
        mv "$dir.new" "$dir"
        return 0
    fi
    (cd "$DATA" && ${AS[@]+"${AS[@]}"} "$POSTGRES_BIN/initdb" -D "$dir.new" \
        --username=rill --encoding=UTF8 --locale=C "${auth[@]}") \
        >"$RUN/postgres.log" 2>&1 </dev/null || give_up postgres
    mv "$dir.new" "$dir"
}

# sql PORT PASSWORD ARG...: the password by the environment, as everybody sees
# arguments.
sql() {
    local port=$1 secret=$2
    shift 2
    PGPASSWORD=$secret PGCONNECT_TIMEOUT=5 \
        "$POSTGRES_BIN/psql" -XqAt -h 127.0.0.1 -p "$port" -U rill -d postgres "$@"
}

# That it is *our* server on that port, and past recovery.
postgres_answers() {
    [ "$(sql "$2" "$3" -c 'SHOW data_directory' 2>/dev/null)" = "$1" ]
}

stop_redis() { stop "$RUN/redis.pid" TERM KILL; }

# SIGINT: "fast", without waiting for clients; SIGQUIT: at once, with recovery
# at the next start.
stop_postgres() { stop "$RUN/postgres.pid" INT QUIT; }
