#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Every scorer x policy x plan on the bundled model and two of its tasks: task gain, ability kept, trained parameters, state and time, mean and
# spread over seeds, as CSV and as a page with the trade-off plot for each task. Many hours on two cores; it goes on where it was cut off. For
# people, not for CI.
#
#   benchmarks/policies.sh [DIRECTORY] [options of `esft bench policies`]     default build/policies
#
# Environment: ESFT_TOOL  the tool (default build/release/bin/esft)
#              TASKS      default package_section,package_json; with one task the policies that combine tasks are left out
#              SEEDS      default 1,2,3
#              RATES      default 0.003
# A smaller matrix: benchmarks/policies.sh --scorer token,fisher --method esft,hilo,full; --list names the arms and runs nothing.
set -eu
cd "$(dirname "$0")/.."
out=build/policies
case "${1:-}" in "" | -*) ;; *) out=$1; shift ;; esac
exec "${ESFT_TOOL:-build/release/bin/esft}" bench policies --model examples/quickstart/model --data examples/quickstart/data \
  --task "${TASKS:-package_section,package_json}" --domain scripture_en,scripture_es,python,licences,packages,arithmetic \
  --seeds "${SEEDS:-1,2,3}" --rates "${RATES:-0.003}" --out "$out" "$@"
