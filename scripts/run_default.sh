#!/bin/bash
# What `make run` does once everything is there: a chat on a terminal, one answer elsewhere.
set -euo pipefail
cd "$(dirname "$0")/.."

if [[ -t 0 && -t 1 ]]; then
  exec build/release/phasor run
fi
question="How many days are in a week?"
echo "> $question"
exec build/release/phasor run -p "$question" --temp 0 -n 64 < /dev/null
