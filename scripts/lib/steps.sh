# For scripts that tell what they do step by step: headings, outcomes, and Debian packages. Sourced, never run.
# shellcheck shell=bash

# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

if [[ -t 1 && -z "${NO_COLOR:-}" ]]; then
    bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' green=$'\e[32m' plain=$'\e[0m'
else
    bold='' dim='' red='' green='' plain=''
fi

say() { printf '%s\n' "$*"; }
# A heading, with the seconds since the script began.
step() { printf '\n%s==> %s%s %s(%ss)%s\n' "$bold" "$*" "$plain" "$dim" "$SECONDS" "$plain"; }
good() { printf '%s    ok: %s%s\n' "$green" "$*" "$plain"; }
skip() { printf '    left out: %s\n' "$*"; }

# Milliseconds of the wall clock.
now_ms() { date +%s%3N; }

# Where cargo puts what it builds, whatever is configured.
target_directory() {
    cargo metadata --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/'
}

# present PROGRAM|PATTERN: whether the program is installed; something with a slash is a file pattern.
present() {
    if [[ "$1" == */* ]]; then compgen -G "$1" >/dev/null; else have "$1"; fi
}

# install_missing PROGRAM=PACKAGE...: installs the packages of programs that are missing, if it may, and says so.
# Fails if something is still missing, and names it in $missing.
install_missing() {
    local pair packages=() log
    for pair in "$@"; do
        present "${pair%%=*}" || packages+=("${pair#*=}")
    done
    missing="${packages[*]}"
    ((${#packages[@]})) || return 0
    is_root && have apt-get || return 1
    say "    installing $missing"
    log="$(mktemp)"
    export DEBIAN_FRONTEND=noninteractive
    if { apt-get update && apt-get install -y --no-install-recommends "${packages[@]}"; } >"$log" 2>&1 </dev/null; then
        rm -f "$log"
        missing=''
        return 0
    fi
    tail -n 15 "$log" >&2
    rm -f "$log"
    return 1
}
