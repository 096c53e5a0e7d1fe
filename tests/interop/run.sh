#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Compares this build with the packages that others use. Needs Python with them, which nothing else in this repository does:
#   python3 -m venv .venv && .venv/bin/pip install torch==2.15.0 transformers==5.23.0 peft==0.21.2 tokenizers==0.23.3
#   PYTHON=.venv/bin/python tests/interop/run.sh build/release/bin/esft
# Every *.py of this folder is one comparison: it gets the path of the tool, and fails when one result differs. support/ is what they share.
# ESFT_OFFICIAL=PATH/TO/CLONE of the official ESFT repository adds the comparison with its esft.py.
set -eu
tool=${1:?"usage: tests/interop/run.sh PATH/TO/esft"}
here=$(dirname "$0")
for comparison in "$here"/*.py; do
  echo "== $(basename "$comparison")"
  "${PYTHON:-python3}" "$comparison" "$tool"
done
