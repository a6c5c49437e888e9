#!/bin/bash
# Installs the Debian packages that are missing: scripts/setup.sh build|test|dev|neon|avx512
#
# A call that has nothing to do costs one dpkg-query. Set PHASOR_NO_INSTALL=1 to be told what is
# missing and have nothing installed.
set -euo pipefail

build_packages=(g++ cmake ninja-build pkg-config python3 python3-pip libcli11-dev
  nlohmann-json3-dev libfmt-dev libpcre2-dev libxxhash-dev libhwy-dev libutf8proc-dev libdtl-dev)
# clang and its runtime are for the fuzz targets.
test_packages=(libgtest-dev clang clang-format-14 libclang-rt-14-dev)
dev_packages=(clang-tidy-14)
# Building for 64-bit ARM and running that here; libraries: scripts/neon_libraries.sh.
neon_packages=(g++-aarch64-linux-gnu qemu-user)
# Plain implementations of AVX-512 (headers alone), for tests on a CPU without it.
avx512_packages=(libsimde-dev libgtest-dev)

case "${1:-}" in
  build) wanted=("${build_packages[@]}") ;;
  test) wanted=("${build_packages[@]}" "${test_packages[@]}") ;;
  dev) wanted=("${build_packages[@]}" "${test_packages[@]}" "${dev_packages[@]}") ;;
  neon) wanted=("${build_packages[@]}" "${neon_packages[@]}") ;;
  avx512) wanted=("${build_packages[@]}" "${avx512_packages[@]}") ;;
  *)
    echo "setup: expected build, test, dev, neon or avx512, found '${1:-}'" >&2
    exit 2
    ;;
esac

if ! command -v dpkg-query > /dev/null; then
  echo "setup: no dpkg on this system, so nothing is checked or installed; the Debian 12 names of" \
    "what phasor needs: ${wanted[*]}" >&2
  exit 0
fi

# dpkg-query fails when a name is unknown to it, which is just one of the answers here.
installed=" $(dpkg-query -W -f '${Package}:${db:Status-Status} ' "${wanted[@]}" 2> /dev/null || true)"
missing=()
for package in "${wanted[@]}"; do
  [[ "$installed" == *" $package:installed "* ]] || missing+=("$package")
done
[[ ${#missing[@]} -eq 0 ]] && exit 0

by_hand="apt-get install --no-install-recommends ${missing[*]}"
if [[ -n "${PHASOR_NO_INSTALL:-}" ]]; then
  echo "setup: missing packages (PHASOR_NO_INSTALL is set); as root: $by_hand" >&2
  exit 1
fi

if [[ $(id -u) -eq 0 ]]; then
  as_root=(env)
elif command -v sudo > /dev/null && { sudo -n true 2> /dev/null || [[ -t 0 ]]; }; then
  as_root=(sudo)
else
  echo "setup: missing packages, and neither root nor sudo is available; as root: $by_hand" >&2
  exit 1
fi

start=$SECONDS
echo "setup: installing ${missing[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt=("${as_root[@]}" DEBIAN_FRONTEND=noninteractive apt-get -q -y)
# A failed update is no reason to stop: the packages may be known or cached already.
"${apt[@]}" update > "$log" 2>&1 < /dev/null || tail -n 3 "$log" >&2
if ! "${apt[@]}" install --no-install-recommends "${missing[@]}" > "$log" 2>&1 < /dev/null; then
  tail -n 15 "$log" >&2
  echo "setup: apt-get could not install the packages above; by hand, as root: $by_hand" >&2
  exit 1
fi
echo "setup: done in $((SECONDS - start)) s"
