# SPDX-License-Identifier: Apache-2.0
# Sourced by quickstart.sh and test.sh. need_packages installs what is missing by its Debian name, or lists it and stops.
# Arguments: pairs of PACKAGE PROBE, where PROBE is a program on the PATH or a header under an include folder.
# ESFT_SKIP_PACKAGES=1 leaves the machine alone: for those whose libraries lie elsewhere.

has() {
  command -v "$1" >/dev/null 2>&1 && return 0
  for folder in /usr/include /usr/local/include; do
    [ -e "$folder/$1" ] && return 0
  done
  return 1
}

need_packages() {
  [ "${ESFT_SKIP_PACKAGES:-0}" = 1 ] && return 0
  missing=""
  while [ $# -ge 2 ]; do
    has "$2" || missing="$missing $1"
    shift 2
  done
  [ -z "$missing" ] && return 0

  if ! command -v apt-get >/dev/null 2>&1; then
    echo "esft needs these packages (Debian names):$missing" >&2
    echo "Install them with your package manager and run this again; ESFT_SKIP_PACKAGES=1 skips this check." >&2
    exit 1
  fi
  as_root=""
  if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then
      echo "esft needs these packages:$missing" >&2
      echo "Ask someone with root to run: apt-get install$missing" >&2
      exit 1
    fi
    as_root="sudo"
  fi
  echo "installing:$missing"
  $as_root apt-get update -qq
  # Releases other than Debian 12 carry Boost under its unversioned name.
  case "$missing" in
    *libboost1.81-dev*)
      apt-cache show libboost1.81-dev >/dev/null 2>&1 || missing=$(echo "$missing" | sed 's/libboost1.81-dev/libboost-dev/') ;;
  esac
  # shellcheck disable=SC2086  # one word per package
  $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
}

# Stops unless CMake is new enough to read the presets.
need_cmake() {
  version=$(cmake --version | sed -n '1s/[^0-9]*\([0-9.]*\).*/\1/p')
  major=${version%%.*}
  rest=${version#*.}
  minor=${rest%%.*}
  if [ "$major" -lt 3 ] || { [ "$major" -eq 3 ] && [ "$minor" -lt 25 ]; }; then
    echo "esft needs CMake 3.25 or newer; this is $version ($(command -v cmake)). One way to get it: pip install cmake" >&2
    exit 1
  fi
}
