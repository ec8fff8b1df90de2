#!/bin/sh
# Load tests a node of this build and prints the figures of docs/load-testing.md: scripts/load-test.sh
#
# The node runs on core $NODE_CORE, with blobs that are made for it; ghz and h2load run on core $LOAD_CORE. $NODE is a
# node's binary, if it is not to be built. Takes about a minute and leaves nothing behind.
set -eu
cd "$(dirname "$0")/.."

case "${1:-}" in
'') ;;
-h | --help)
    # What stands above, without its first line.
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' scripts/load-test.sh
    exit
    ;;
*)
    echo "load-test.sh takes no arguments, and was given '$*'; --help tells what it goes by" >&2
    exit 2
    ;;
esac

node_core=${NODE_CORE:-0}
load_core=${LOAD_CORE:-1}
key_count=1024
PATH="$PATH:${GOBIN:-${GOPATH:-${HOME:-}/go}/bin}"

for tool in ghz h2load taskset awk; do
    command -v "$tool" >/dev/null || {
        echo "load-test.sh needs $tool. ghz: go install github.com/bojand/ghz/cmd/ghz@latest;" \
            'h2load: apt-get install nghttp2-client; taskset: apt-get install util-linux' >&2
        exit 1
    }
done

# A node that does not have its core only warns, and its figures would be those of another one.
for core in "$node_core" "$load_core"; do
    taskset -c "$core" true 2>/dev/null || {
        echo "load-test.sh can not run on core $core; name two that it can run on as NODE_CORE and LOAD_CORE" >&2
        exit 1
    }
done

if [ -z "${NODE:-}" ]; then
    . scripts/env.sh
    echo 'Building. The first time this takes 10 to 20 minutes on two cores: it compiles the gRPC C-core.' >&2
    messages=$(cargo build --locked --release --bin corecache --message-format=json-render-diagnostics)
    NODE=$(printf '%s\n' "$messages" | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p')
fi

work=$(mktemp -d)
node_pid=
clean_up() {
    # A node that stands still would not hear the first signal.
    [ -z "$node_pid" ] || kill -KILL "$node_pid" 2>/dev/null || true
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 1' INT TERM

make_blobs() {
    mkdir "$work/blobs"
    value=$(printf '%0100d' 0)
    for number in $(seq "$key_count"); do
        printf '%s' "$value" >"$work/blobs/k$(printf '%04d' "$number")"
    done
    # A fresh file is waited for, lest it is still being written.
    find "$work/blobs" -type f -exec touch -d '1 hour ago' {} +
}

# What ghz sends, a message a call in turn: keys and keys in order, $1 of them a call.
make_ghz_data() {
    awk -v count="$key_count" -v each="$1" 'BEGIN {
        printf "["
        for (first = 1; first <= count; first += each) {
            keys = ""
            for (i = first; i < first + each; i++) keys = keys sprintf("%s\"k%04d\"", (i > first ? "," : ""), i)
            name = each > 1 ? "\"keys\":[" keys "]" : "\"key\":" keys
            printf "%s{\"group\":\"blobs\",%s}", (first > 1 ? "," : ""), name
        }
        print "]"
    }'
}

# What h2load sends, the same at each call: a gRPC message for the first $1 keys.
make_h2load_body() {
    # A flag, the length in four bytes; the group, 7 bytes; 7 bytes a key.
    length=$((7 + 7 * $1))
    printf '\000\000\000'"\\$(printf '%03o' $((length / 256)))\\$(printf '%03o' $((length % 256)))"
    printf '\012\005blobs'
    for number in $(seq "$1"); do
        printf '\022\005k%04d' "$number"
    done
}

start_node() {
    "$NODE" serve --listen 127.0.0.1:0 --admin off --express 127.0.0.1:0 --cores "$node_core" --group "blobs=dir:$work/blobs" \
        >"$work/node.out" 2>"$work/node.log" &
    node_pid=$!
    until express=$(sed -n 's/^express on //p' "$work/node.out") && [ -n "$express" ]; do
        kill -0 "$node_pid" 2>/dev/null || {
            cat "$work/node.log" >&2
            exit 1
        }
        sleep 0.1
    done
    front=$(sed -n 's/^listening on //p' "$work/node.out")
}

# The processor time that the node has used so far, in hundredths of a second.
node_ticks() {
    sed 's/.*) //' "/proc/$node_pid/stat" | awk '{ print $12 + $13 }'
}

# Runs a load, $3 and what follows, whose calls ask for $2 keys each, and prints a line of figures named $1. How its
# output is read is in $read_figures: an awk program that prints calls, calls a second, median and 99th percentile.
measure() {
    name=$1 keys=$2
    shift 2
    before=$(node_ticks)
    taskset -c "$load_core" "$@" >"$work/load.out" 2>&1 || {
        cat "$work/load.out" >&2
        exit 1
    }
    after=$(node_ticks)
    figures=$(awk "$read_figures" "$work/load.out")
    [ -n "$figures" ] || {
        echo "not all calls were answered, or the figures can not be read:" >&2
        cat "$work/load.out" >&2
        exit 1
    }
    echo "$figures $keys $((after - before))" | awk -v name="$name" '{
        cpu_us = $6 * 10000 / $1
        printf "%-44s %9.0f %9.0f %9s %9s %9.1f %6.0f %%\n", name, $2, $2 * $5, $3, $4, cpu_us, cpu_us * $2 / 10000
    }'
}

ghz_load() {
    # shellcheck disable=SC2016 # awk's variables
    read_figures='
        /Count:/ { calls = $2 }
        /Requests\/sec:/ { speed = $2 }
        /50 % in/ { median = $4 $5 }
        /99 % in/ { p99 = $4 $5 }
        /\[OK\]/ { ok = $2 }
        END { if (ok == calls && calls > 0) print calls, speed, median, p99 }'
    name=$1 keys=$2 config=$3
    shift 3
    measure "$name" "$keys" ghz --config "benches/ghz/$config.json" "$@" "$address"
}

h2load_load() {
    # h2load tells no percentiles.
    # shellcheck disable=SC2016 # awk's variables
    read_figures='
        /^finished in/ { speed = $4 }
        /^requests:/ { calls = $2; ok = $8 }
        END { if (ok == calls && calls > 0) print calls, speed, "-", "-" }'
    name=$1 keys=$2 method=$3 body=$4
    shift 4
    measure "$name" "$keys" h2load -t 1 "$@" -H 'content-type: application/grpc' -H 'te: trailers' \
        -d "$work/$body" "http://$address/corecache.v1.Cache/$method"
}

make_blobs
make_ghz_data 1 >"$work/get.json"
make_ghz_data 64 >"$work/get-many.json"
make_h2load_body 1 >"$work/get.body"
make_h2load_body 64 >"$work/get-many.body"
start_node

model=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)
echo "machine: $(nproc) cores, ${model:-unknown CPU}, Linux $(uname -r); node on core $node_core, load on core $load_core"
echo "values of 100 bytes, $key_count keys, all hits; $(ghz --version 2>&1 | head -n 1 | sed 's/^/ghz /'), $(h2load --version)"
echo
# Loads all keys, so that everything after this is a hit.
address=$front
ghz_load warm 64 get-many -D "$work/get-many.json" -n 1000 >/dev/null

printf '%-44s %9s %9s %9s %9s %9s %8s\n' '' calls/s keys/s median p99 'CPU us' 'core'
for door in express front; do
    case $door in
    express) address=$express more=4 ;;
    front) address=$front more=1 ;;
    esac
    echo "$door door"
    h2load_load 'h2load, Get, 8 x 32 calls' 1 Get get.body -c 8 -m 32 -n $((more * 300000))
    h2load_load 'h2load, Get, 64 x 1 call' 1 Get get.body -c 64 -m 1 -n 200000
    h2load_load 'h2load, GetMany of 64, 8 x 4 calls' 64 GetMany get-many.body -c 8 -m 4 -n 100000
    ghz_load 'ghz, Get, closed loop, 8 x 8 callers' 1 closed -D "$work/get.json" -n 100000
    ghz_load 'ghz, GetMany of 64, closed loop, 8 x 8' 64 get-many -D "$work/get-many.json" -n 20000
    ghz_load 'ghz, Get, open loop, 5000 a second' 1 open -D "$work/get.json" -n 25000
done

# The node stands still for a second in the middle of five: what do the two kinds of load see of it?
stand_still() {
    sleep 2
    kill -STOP "$node_pid"
    sleep 1
    kill -CONT "$node_pid"
}
echo 'express door, the node stands still for 1 s'
address=$express
stand_still &
ghz_load 'ghz, Get, open loop, 5000 a second' 1 open -D "$work/get.json" -n 25000
stand_still &
ghz_load 'ghz, Get, closed loop at 5000 a second' 1 closed -D "$work/get.json" --rps 5000 -n 20000
