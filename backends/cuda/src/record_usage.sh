#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# record_usage.sh OBJECT COMMAND...: compiles, and keeps in OBJECT.usage what the assembler says of registers, which only a test wants to see.
object=$1
shift
"$@" > "$object.usage" 2>&1
code=$?
grep -v -e '^ptxas info' -e 'bytes stack frame' "$object.usage" >&2
exit "$code"
