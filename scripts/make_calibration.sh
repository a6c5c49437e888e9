#!/bin/bash
# Makes the calibration of the default model that is shipped in share/phasor/calibration: the widths
# that `-ctk frame4`, `frame3` and `polar`, `-ctv q4_head` and `q3_head` use. Takes some minutes.
# docs/log.md says why these options.
#
#   scripts/make_calibration.sh [FOLDER]    default: share/phasor/calibration
#
# The text is Northanger Abbey; quality is measured on Emma, so that no text is used for both.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
folder=${1:-$root/share/phasor/calibration}
"$root/scripts/get_model.sh"
"$root/scripts/get_texts.sh"
mkdir -p "$folder"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$root/build/release/phasor" calibrate default "$("$root/scripts/get_texts.sh" --path)/northanger_abbey.txt" \
  -n 2048 --by-loss --precision f32 -o "$work/calibration.json"
# The file is named by the fingerprint of the model's weights.
name=$(sed -n 's/.*"fingerprint": "\([0-9a-f]*\)".*/\1/p' "$work/calibration.json")
[[ -n "$name" ]] || { echo "make_calibration: expected a fingerprint, found none" >&2; exit 1; }
mv "$work/calibration.json" "$folder/$name.json"
echo "make_calibration: $folder/$name.json"
