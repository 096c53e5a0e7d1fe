#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Every scorer x policy x plan on the bundled model and task: task gain, ability kept, trained parameters, state and time, mean and spread
# over seeds, as CSV and as a page with the trade-off plot. An hour or more on two cores; it goes on where it was cut off. For people, not for CI.
#
#   benchmarks/policies.sh [DIRECTORY] [options of `esft bench policies`]     default build/policies
#
# Environment: ESFT_TOOL  the tool (default build/release/bin/esft)
set -eu
cd "$(dirname "$0")/.."
out=build/policies
case "${1:-}" in "" | -*) ;; *) out=$1; shift ;; esac
exec "${ESFT_TOOL:-build/release/bin/esft}" bench policies --model examples/quickstart/model --data examples/quickstart/data --task package_section \
  --domain scripture_en,scripture_es,python,licences,packages,arithmetic --seeds 1,2,3 --rates 0.003 --out "$out" "$@"
