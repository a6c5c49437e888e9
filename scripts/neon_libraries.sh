#!/bin/bash
# Unpacks the libraries phasor needs, built for 64-bit ARM, into build/neon-root.
#
# Debian's packages are downloaded and unpacked, not installed: that needs no root, and does not make
# apt change packages of this machine so that both architectures have equal versions. apt keeps its
# lists for arm64 in build/neon-apt and checks signatures with the keys of this system. A call that
# has nothing to do costs one comparison. With PHASOR_NO_INSTALL=1 nothing is downloaded.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(libfmt-dev libfmt9 libpcre2-dev libpcre2-8-0 libxxhash-dev libxxhash0 libhwy-dev libhwy1
  libutf8proc-dev libutf8proc2 libgtest-dev libcli11-dev nlohmann-json3-dev)
root=build/neon-root
state=$PWD/build/neon-apt

[[ -f $root/.packages && $(< "$root/.packages") == "${packages[*]}" ]] && exit 0
if [[ -n "${PHASOR_NO_INSTALL:-}" ]]; then
  echo "neon: missing libraries for arm64 in $root (PHASOR_NO_INSTALL is set): ${packages[*]}" >&2
  exit 1
fi
if ! command -v apt-get > /dev/null || ! command -v dpkg-deb > /dev/null; then
  echo "neon: no apt-get and dpkg-deb on this system, which the libraries for arm64 come with" >&2
  exit 1
fi

rm -rf "$root" "$state"
mkdir -p "$root" "$state"/lists/partial "$state"/cache/archives/partial "$state"/debs
touch "$state/status"
cat > "$state/apt.conf" << END
APT::Architecture "arm64";
APT::Architectures { "arm64"; };
APT::Sandbox::User "";
Dir::State "$state";
Dir::State::status "$state/status";
Dir::Cache "$state/cache";
END
export APT_CONFIG=$state/apt.conf

start=$SECONDS
echo "neon: getting the libraries for arm64 (2.5 MB and apt's lists)"
log=$state/log
if ! apt-get -q update > "$log" 2>&1 < /dev/null ||
  ! (cd "$state/debs" && apt-get -q download "${packages[@]}") >> "$log" 2>&1 < /dev/null; then
  tail -n 15 "$log" >&2
  echo "neon: apt-get could not get the packages for arm64: ${packages[*]}" >&2
  exit 1
fi
for deb in "$state"/debs/*.deb; do dpkg-deb -x "$deb" "$root"; done
rm -rf "$state"
echo "${packages[*]}" > "$root/.packages"
echo "neon: libraries done in $((SECONDS - start)) s"
