# Shared by the scripts: messages, timing, and Debian packages. Sourced, never run.
# shellcheck shell=bash

if [[ -t 1 && -z "${NO_COLOR:-}" ]]; then
  bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' green=$'\e[32m' plain=$'\e[0m'
else
  bold='' dim='' red='' green='' plain=''
fi

say() { printf '%s\n' "$*"; }
# A heading, with the time since the script began.
step() { printf '\n%s==> %s%s %s(%ss)%s\n' "$bold" "$*" "$plain" "$dim" "$SECONDS" "$plain"; }
good() { printf '%s    ok: %s%s\n' "$green" "$*" "$plain"; }
skip() { printf '    skipped: %s\n' "$*"; }
die() {
  printf '%sfailed: %s%s\n' "$red" "$*" "$plain" >&2
  exit 1
}

# Milliseconds of the wall clock.
now_ms() { date +%s%3N; }

is_root() { [[ "$(id -u)" == 0 ]]; }

# Programs of the system live in sbin, which a user's PATH may lack.
has() { PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null 2>&1; }

# install_missing PROGRAM=PACKAGE... : installs the packages of programs that are missing, when it may. Says what it does.
# A PROGRAM with a slash is a file (a pattern) that must be there. Fails when something is still missing; names it in $missing.
install_missing() {
  local pair packages=()
  for pair in "$@"; do
    present "${pair%%=*}" || packages+=("${pair#*=}")
  done
  missing="${packages[*]:-}"
  [[ -z "$missing" ]] && return 0
  if ! is_root || ! has apt-get; then
    return 1
  fi
  say "    installing $missing"
  local log
  log="$(mktemp)"
  if { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing; } \
    >"$log" 2>&1 </dev/null; then
    rm -f "$log"
    missing=''
    return 0
  fi
  tail -n 20 "$log" >&2
  rm -f "$log"
  return 1
}

present() {
  if [[ "$1" == */* ]]; then
    compgen -G "$1" >/dev/null
  else
    has "$1"
  fi
}
