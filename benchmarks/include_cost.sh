#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# What one include costs: `#include <esft/esft.hpp>` against the standard headers that it needs, best of N (default 5), syntax only.
# Goal: at most 2.5 times. Prints a table; with --check, exits 1 above the goal. Run it on a quiet machine: it measures user time.
set -eu
cd "$(dirname "$0")/.."
check=0
[ "${1:-}" = --check ] && { check=1; shift; }
repeats=${1:-5}
compiler=${CXX:-g++}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# User time of the compiler over one file, in milliseconds: the least of several runs.
cost() {
  best=999999
  run=0
  while [ "$run" -lt "$repeats" ]; do
    "$compiler" -std=c++20 -fsyntax-only -Iinclude -ftime-report "$1" 2>"$work/report" || { cat "$work/report" >&2; exit 1; }
    now=$(awk '/^ *TOTAL/ { printf "%d", $3 * 1000 }' "$work/report")
    [ "$now" -lt "$best" ] && best=$now
    run=$((run + 1))
  done
  echo "$best"
}

echo '#include <esft/esft.hpp>' > "$work/esft.cpp"
# The standard headers are read off the esft headers that the compiler really opens.
"$compiler" -std=c++20 -MM -Iinclude "$work/esft.cpp" | tr ' \\' '\n\n' | grep '^include/esft/' > "$work/opened"
xargs grep -hE '^#include <[a-z_]+>' < "$work/opened" | sort -u > "$work/std.cpp"
echo '#include <boost/hana/define_struct.hpp>
#include <boost/hana/for_each.hpp>' > "$work/hana.cpp"

esft=$(cost "$work/esft.cpp")
std=$(cost "$work/std.cpp")
hana=$(cost "$work/hana.cpp")
printf '| include | ms |\n|---|---|\n'
printf '| esft/esft.hpp (%d headers) | %d |\n' "$(wc -l < "$work/opened")" "$esft"
printf '| the %d standard headers it needs | %d |\n' "$(wc -l < "$work/std.cpp")" "$std"
printf '| Boost.Hana, as used | %d |\n' "$hana"
ratio=$((100 * esft / std))
printf '\nratio %d.%02d, goal at most 2.50\n' $((ratio / 100)) $((ratio % 100))
[ "$check" = 0 ] || [ "$ratio" -le 250 ]
