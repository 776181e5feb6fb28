#!/usr/bin/env bash
# What `make demo` runs: one campaign's file on its way, against the stand-in service on this machine.
# It leaves nothing but ./demo, and begins it anew each time. Exits 0 if all went as it should.
set -euo pipefail
cd "$(dirname "$0")/.."

# A rehearsal must look the same on every machine, whatever this one's settings are.
for name in $(compgen -v BULKISSUE_ || true); do unset "$name"; done
rm -rf demo
mkdir demo
export BULKISSUE_RUNS_DIR=demo/runs BULKISSUE_STATE_DIR=demo/state
job=jobs/earn.toml

say() { printf '\n'; printf '%s\n' "$@"; }

# expect CODE ARGUMENTS: the command, shown and then executed; another exit code than CODE ends the demo.
expect() {
    local expected=$1 code=0
    shift
    printf '\n$ bulkissue %s\n\n' "$*"
    .venv/bin/bulkissue "$@" 2>demo/log || code=$?
    if [ "$code" -ne "$expected" ]; then
        cat demo/log >&2
        printf 'demo: exit %s, and %s was expected\n' "$code" "$expected" >&2
        exit 1
    fi
}

# ledger NAME COLUMN…: the first lines of a ledger, of some of its columns.
ledger() {
    .venv/bin/python - "$folder/$1.csv" "${@:2}" <<'PYTHON'
import csv
import sys
from itertools import islice

path, *names = sys.argv[1:]
with open(path, newline="", encoding="utf-8") as file:
    lines = [names, *([row[name] for name in names] for row in islice(csv.DictReader(file), 5))]
widths = [max(map(len, column)) for column in zip(*lines)]
print(f"\n{path}\n")
for line in lines:
    print("  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())
PYTHON
}

say "1. A dry run reads and validates the input, and sends nothing. It ends with 5, as some rows would be rejected."
expect 5 run "$job" --dry-run

say "2. The run itself, against the stand-in service. It ends with 5 again: not every row could be issued."
expect 5 run "$job" --sandbox
folder=$(echo demo/runs/*)

say "3. Every row of the input stands in exactly one of four ledgers, with its own columns and ours behind them." \
    "   success.csv names the service's proof, failure.csv the reason, duplicate.csv the row that was sent instead."
ledger success type value channel _bi_row _bi_outcome _bi_reference
ledger failure type value channel _bi_row _bi_outcome _bi_reason
ledger duplicate type value channel _bi_row _bi_outcome _bi_message

say "4. The books can be proved again at any time, from plan and journal alone."
expect 0 verify latest --runs-dir demo/runs

say "All of it lies in $folder. README.md, \"The first real run\", is the way from here to yours."
