# shellcheck shell=bash disable=SC2034,SC2154 # variables come from, and are for, those that source this
# What the scripts that measure share: the workloads, starting and stopping what is loaded, running a load, its figures.
# Sourced, not run; expects `set -euo pipefail`, scripts/lib/common.sh, and
#   $seconds, $warm_up      how long each timed load and the first one take
#   $work, $results         where NAME's logs are, as $work/NAME/*.log, and where results go
#   NAME_up, NAME_down      of each side, that is, of what is loaded
#   ${namesrv_of[NAME]}     its name server
#   ${bench_of[NAME]}       the raftmq binary that loads it

declare -A namesrv_of bench_of
workloads=()
backlog=400000       # messages that are drained, again and again
repeats=1000         # messages whose delivery is timed
load_seconds_max=300 # beyond what a load takes by itself: filling a backlog

# A workload is its name, the figures compared, and what `raftmq bench` is called with. Each kind has its own topic.
set_workloads() {
  local timed="--seconds $seconds --warmup"
  warm_up_load="--topic send --connections 4 --in-flight 256 --body-size 128 --warmup 1 --seconds $warm_up"
  fill_load="drain --topic drain --fill $backlog --connections 8 --batch 32 --body-size 128"
  workloads=(
    "send 1 x 64 x 128 B|acked_per_s|--topic send --connections 1 --in-flight 64 --body-size 128 $timed 1"
    "send 4 x 256 x 128 B|acked_per_s|--topic send --connections 4 --in-flight 256 --body-size 128 $timed 1"
    "send 4 x 256 x 1024 B|acked_per_s|--topic send --connections 4 --in-flight 256 --body-size 1024 $timed 1"
    "send 1 x 1 x 128 B|p50_us p99_us|--topic send --connections 1 --in-flight 1 --body-size 128 $timed 1"
    "drain 8 x 32 x 128 B|messages_per_s|$fill_load $timed 2"
    "delivery, 128 B|p50_us p99_us|latency --topic latency --repeats $repeats --body-size 128"
  )
}

# --- the sides ---

started=""
load_pid=""

start_side() {
  started=$1
  "$1_down" >"$results/down.log" 2>&1 || true
  "$1_up" >"$results/$1-up.log" 2>&1 || {
    cat "$results/$1-up.log" >&2
    die "$1 did not start"
  }
}

stop_side() {
  "$1_down" >"$results/down.log" 2>&1 || die "$1 did not stop: $(cat "$results/down.log")"
  started=""
}

# undo_sides: ends the load and the side that runs, if any
undo_sides() {
  [[ -n $started ]] || return 0
  [[ -z $load_pid ]] || kill "$load_pid" 2>/dev/null || true
  # what the failed side said goes with its stop
  mkdir -p "$results/logs"
  cp "$work/$started"/*.log "$results/logs/" 2>/dev/null || true
  "${started}_down" >/dev/null 2>&1 || true
  echo "logs are in $results/logs" >&2
}

# --- load ---

# run_load SIDE OUT ARGUMENTS...: in the background, so that signals are seen at once
run_load() {
  local side=$1 out=$2 mode=()
  shift 2
  [[ $1 == --* ]] || { mode=("$1"); shift; }
  timeout --kill-after=5 $((seconds + warm_up + load_seconds_max)) "${bench_of[$side]}" bench "${mode[@]}" \
    --namesrv "${namesrv_of[$side]}" "$@" --json >"$out" 2>"$out.err" &
  load_pid=$!
  wait "$load_pid" || {
    tail -n 20 "$out.err" >&2
    die "raftmq bench failed against ${namesrv_of[$side]}"
  }
  load_pid=""
}

# --- figures ---

# figure FILE NAME: the first one of that name
figure() {
  { grep -o '"'"$2"'":[0-9.]*' "$1" || true; } | head -n 1 | cut -d : -f 2
}

# print_figures ROUND SIDE WORKLOAD FIGURES OUT: a line for each figure of a load's outcome
print_figures() {
  local metric
  for metric in $4; do
    [[ -n $(figure "$5" "$metric") ]] || die "no $metric in $5: $(head -c 300 "$5")"
    printf 'round %d  %-8s %-24s %-15s %12s   p50 %s µs  p99 %s µs  max %s µs  errors %s\n' "$1" "$2" "$3" \
      "$metric" "$(figure "$5" "$metric")" "$(figure "$5" p50_us)" "$(figure "$5" p99_us)" "$(figure "$5" max_us)" \
      "$(figure "$5" errors)"
  done
}
