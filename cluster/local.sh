#!/usr/bin/env bash
# A Ray cluster of N nodes on this machine, with pretend GPUs, dashboard and token: to try placement, submission and
# the death of nodes without hardware. Linux only. docs/clusters/local.md goes through a run.
#
#     cluster/local.sh N       start N nodes; the first is the head
#     cluster/local.sh env     print what clients need: eval "$(cluster/local.sh env)"
#     cluster/local.sh status  which nodes live, and what they have
#     cluster/local.sh stop    stop the processes that it started, and no others
#
# Read from the environment:
#   S3RAY_LOCAL_DIR        folder for sessions, logs, token and process numbers; short, since sockets lie in it
#   S3RAY_LOCAL_PORT       port of the head (6379)
#   S3RAY_LOCAL_DASHBOARD  port of dashboard and job submission (8265)
#   S3RAY_LOCAL_CPUS       CPUs that each node says it has (2)
#   S3RAY_LOCAL_GPUS       GPUs that each node pretends to have (2)
set -euo pipefail

DIR=${S3RAY_LOCAL_DIR:-${TMPDIR:-/tmp}/s3ray-local-$UID}
PORT=${S3RAY_LOCAL_PORT:-6379}
DASHBOARD=${S3RAY_LOCAL_DASHBOARD:-8265}
CPUS=${S3RAY_LOCAL_CPUS:-2}
GPUS=${S3RAY_LOCAL_GPUS:-2}
OBJECT_STORE=$((200 * 1024 * 1024)) # Ray's own choice, 30 % of the memory, would be taken N times
START_S=120
STOP_S=30

NODES=$DIR/nodes # a line per node: process number and start time, which together name one process for good
CLIENT=$DIR/env
BIN=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/.venv/bin
if [[ -x $BIN/ray ]]; then
    PATH=$BIN:$PATH # nodes hand it on to the drivers of jobs, which must find `s3ray`
fi

say() { echo "local.sh: $*"; }

fail() {
    say "$*" >&2
    exit 1
}

# State, parent and start time of a process, as /proc tells them.
look_at() {
    local stat fields
    { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 1
    read -ra fields <<<"${stat##*) }"
    STATE=${fields[0]} PARENT=${fields[1]} STARTED=${fields[19]}
}

lives() { look_at "$1" && [[ $STATE != Z && $STARTED == "$2" ]]; }

# Every living process below the given ones, as lines of number and start time.
below() {
    local -A is_ours=()
    local pid file found=1
    for pid in "$@"; do is_ours[$pid]=1; done
    while ((found)); do
        found=0
        for file in /proc/[0-9]*; do
            pid=${file#/proc/}
            [[ -z ${is_ours[$pid]:-} ]] && look_at "$pid" && [[ $STATE != Z && -n ${is_ours[$PARENT]:-} ]] || continue
            is_ours[$pid]=1 found=1
            echo "$pid $STARTED"
        done
    done
}

listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

free_port() {
    local port
    while port=$((20000 + RANDOM % 12000)) && listens "$port"; do :; done
    echo "$port"
}

# Runs `ray start` as a process of its own that lives as long as its node does.
start_node() {
    local number=$1 log=$DIR/node-$1.log pid started deadline=$((SECONDS + START_S))
    shift
    : >"$log" # before it is looked into: the last cluster's node of this number is up in it
    # Without a port of its own, an agent wants the same one as all others, and the head's takes no jobs without it.
    setsid nohup ray start --block "$@" --disable-usage-stats --node-ip-address=127.0.0.1 --num-cpus="$CPUS" \
        --num-gpus="$GPUS" --object-store-memory="$OBJECT_STORE" --dashboard-agent-listen-port="$(free_port)" \
        >>"$log" 2>&1 </dev/null &
    pid=$!
    look_at "$pid" || fail "node $number ended at once; $log says why"
    started=$STARTED
    echo "$pid $started" >>"$NODES"
    until grep -q "Ray runtime started" "$log"; do
        lives "$pid" "$started" || fail "node $number ended; $log says why: $(tail -n 1 "$log")"
        ((SECONDS < deadline)) || fail "node $number has not started within $START_S s; see $log"
        sleep 0.2
    done
    say "node $number is up"
}

start() {
    local num=$1 number port
    command -v ray >/dev/null || fail "no ray in PATH; make the environment first: make .venv/ready-cpu"
    [[ ! -e $NODES ]] || fail "a cluster was started from $DIR already; cluster/local.sh stop ends it"
    for port in "$PORT" "$DASHBOARD"; do
        if listens "$port"; then
            fail "port $port is taken; set S3RAY_LOCAL_PORT and S3RAY_LOCAL_DASHBOARD to free ones"
        fi
    done
    mkdir -p "$DIR"
    chmod 700 "$DIR"
    # A token of its own: the one in the home folder may be that of a real cluster.
    (umask 077 && head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$DIR/auth_token")
    unset RAY_ADDRESS RAY_API_SERVER_ADDRESS RAY_AUTH_TOKEN # those of another cluster
    export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$DIR/auth_token
    # The nodes share this machine's cores: threads that spin while they wait keep other nodes' threads from working.
    export OMP_WAIT_POLICY=passive
    # A node that is told to end waits half a minute for others to take its work over; these all end together.
    export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0
    printf 'export %s\n' RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$DIR/auth_token" \
        RAY_ADDRESS="127.0.0.1:$PORT" RAY_API_SERVER_ADDRESS="http://127.0.0.1:$DASHBOARD" >"$CLIENT"
    : >"$NODES"
    trap 'say "could not start; stopping what was started" >&2; stop' EXIT
    # A temporary folder of their own keeps other programs' address="auto" off this cluster; one for each node, or each
    # that unpacks a job takes the working folder of its driver away from under it. Ray's client server, which nobody
    # here uses, cannot be left out, and its usual port may be taken.
    start_node 0 --head --port="$PORT" --temp-dir="$DIR/ray" --ray-client-server-port="$(free_port)" \
        --include-dashboard=true --dashboard-host=127.0.0.1 --dashboard-port="$DASHBOARD"
    for ((number = 1; number < num; number++)); do
        start_node "$number" --address="127.0.0.1:$PORT" --temp-dir="$DIR/ray-$number"
    done
    trap - EXIT
    say "$num nodes of $CPUS CPUs and $GPUS pretend GPUs; dashboard and jobs at http://127.0.0.1:$DASHBOARD"
    say "next: eval \"\$(cluster/local.sh env)\""
}

stop() {
    local pid started deadline=$((SECONDS + STOP_S)) roots=() doomed=() left was_killed=0
    [[ -e $NODES ]] || fail "nothing was started from $DIR"
    while read -r pid started; do
        if lives "$pid" "$started"; then roots+=("$pid"); fi
    done <"$NODES"
    # Noted before anything is told to end: a process whose parent is gone belongs to nobody any more.
    mapfile -t doomed < <(cat "$NODES" && below "${roots[@]}")
    # Drivers and engines end with the nodes that started them; the nodes end by themselves when asked.
    for pid in "${roots[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
    while :; do
        left=()
        for pid in "${doomed[@]}"; do
            read -r pid started <<<"$pid"
            if lives "$pid" "$started"; then left+=("$pid"); fi
        done
        if ((${#left[@]} == 0)); then break; fi
        if ((SECONDS >= deadline)); then
            ((!was_killed)) || fail "these do not end even when killed: ${left[*]}"
            say "killing what has not ended within $STOP_S s: ${left[*]}"
            kill -KILL "${left[@]}" 2>/dev/null || true
            was_killed=1 deadline=$((SECONDS + STOP_S))
        fi
        sleep 0.2
    done
    rm -f "$NODES" "$CLIENT" "$DIR/auth_token"
    say "stopped ${#roots[@]} nodes; sessions and logs stay in $DIR"
}

case ${1:-} in
    stop) stop ;;
    env | status)
        [[ -e $CLIENT ]] || fail "no cluster was started from $DIR; cluster/local.sh N starts one"
        if [[ $1 == env ]]; then
            cat "$CLIENT"
        else
            # shellcheck source=/dev/null
            source "$CLIENT"
            ray status
        fi
        ;;
    [1-9] | [1-9][0-9]) start "$1" ;;
    *)
        sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2
        exit 2
        ;;
esac
