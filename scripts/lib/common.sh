# shellcheck shell=bash
# What most scripts share. Sourced, not run; expects `set -euo pipefail`.

die() {
  echo "${0##*/}: $*" >&2
  exit 1
}

# quiet LOG COMMAND...: says nothing unless the command fails, then the end of its output
quiet() {
  local log=$1
  shift
  "$@" >"$log" 2>&1 || {
    tail -n 30 "$log" >&2
    die "'$1' failed, its output is in $log"
  }
}
