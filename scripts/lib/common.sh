# Shell helpers shared by the scripts. Source it; it defines functions only.
# shellcheck shell=bash

# Everything for people goes to stderr, so that stdout stays usable by programs.
note() { printf '%s\n' "$*" >&2; }
warn() { printf 'warning: %s\n' "$*" >&2; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}
usage_error() {
    printf 'error: %s\nSee %s --help.\n' "$*" "$0" >&2
    exit 2
}

have() { command -v "$1" >/dev/null 2>&1; }
is_root() { [[ "$(id -u)" == 0 ]]; }

# require_value OPTION COUNT_OF_ARGUMENTS: refuses an option at the end of the line without its value.
require_value() {
    [[ "$2" -ge 2 ]] || usage_error "$1 needs a value"
}

# require_number NAME VALUE MIN MAX
require_number() {
    [[ "$2" =~ ^[0-9]{1,9}$ ]] || usage_error "$1 must be a number, not '$2'"
    ((10#$2 >= $3 && 10#$2 <= $4)) || usage_error "$1 must be between $3 and $4, not $2"
}

# wait_until SECONDS COMMAND...: runs the command until it succeeds; fails at the deadline.
wait_until() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        ((SECONDS < deadline)) || return 1
        sleep 0.05
    done
}

# Processes are known by pid and start time, so that a pid which the kernel has given to somebody else is left alone.

# process_start_time PID: clock ticks since boot, field 22 of /proc/PID/stat. The second field may contain anything.
process_start_time() {
    local stat
    # Not `$(<file)`: where `set -e` holds, bash 5.2 ends the whole shell if that file is not there.
    stat="$(cat "/proc/$1/stat" 2>/dev/null)" || return 1
    stat="${stat##*) }"
    # shellcheck disable=SC2086 # splitting into fields is the point
    set -- $stat
    [[ "$1" != Z ]] || return 1
    printf '%s' "${20}"
}

# record_process FILE PID
record_process() {
    local started
    started="$(process_start_time "$2")" || return 1
    printf '%s %s\n' "$2" "$started" >"$1"
}

# recorded_pid FILE: prints the pid if the recorded process still runs.
recorded_pid() {
    local pid started now
    { read -r pid started <"$1"; } 2>/dev/null || return 1
    now="$(process_start_time "$pid")" || return 1
    [[ "$now" == "$started" ]] || return 1
    printf '%s' "$pid"
}

process_gone() { ! recorded_pid "$1" >/dev/null; }

# stop_recorded FILE SECONDS: asks the recorded process to end, then makes it. A process that was paused is resumed first.
stop_recorded() {
    local pid
    if pid="$(recorded_pid "$1")"; then
        kill -TERM "$pid" 2>/dev/null || true
        kill -CONT "$pid" 2>/dev/null || true
        if ! wait_until "$2" process_gone "$1"; then
            warn "process $pid does not end by itself; killing it"
            kill -KILL "$pid" 2>/dev/null || true
            wait_until 5 process_gone "$1" || warn "process $pid cannot be killed"
        fi
    fi
    rm -f "$1"
}

# port_open PORT: whether something on 127.0.0.1 accepts connections.
port_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
