# shellcheck shell=bash
# What the scripts share: with --dry-run each command is printed instead of run. Sourced, not run.
# It keeps to what bash 3.2 has, the one that macOS ships.

dry_run=""

say() {
  printf '%s\n' "$*" >&2
}

# Prints its arguments as one line that a shell reads as the same arguments.
quoted() {
  local word line="" plain='^[A-Za-z0-9_./:=@%+,~-]+$' quote="'\\''"
  for word in "$@"; do
    if [[ ! $word =~ $plain ]]; then word="'${word//\'/$quote}'"; fi
    line+=${line:+ }$word
  done
  printf '%s\n' "$line"
}

run() {
  if [[ -n $dry_run ]]; then quoted "$@"; else "$@"; fi
}
