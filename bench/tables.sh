#!/bin/bash
# Prints the quality tables of docs/quality.md, each below the command that made it.
#
#   bench/tables.sh [FOLDER]    the JSON reports go to FOLDER (default: build/quality)
#
# Two texts no part of which was used for calibration. Table 1: all cache types, scored on the codes
# as decode does, activations in float, because rounding them to int8 alone is worth a mean KL of
# 0.003. Table 2: the frame types with pages decoded for blocks of queries, as prefill does: what
# the kernels of decode add is the difference to table 1. Table 3: int8 activations, as `phasor run`
# computes, for the perplexity ratio. About 30 minutes on two quiet cores; PHASOR_TABLE_TOKENS
# (32768) makes it shorter or longer.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
folder=${1:-build/quality}
tokens=${PHASOR_TABLE_TOKENS:-32768}
scripts/get_model.sh >&2
scripts/get_texts.sh >&2
texts=$(scripts/get_texts.sh --path)
mkdir -p "$folder"
frames=frame4:q4_head,frame3:q3_head
all=f16:f16,q8_0:q8_0,q4_0:q4_0,q4_0h:q4_0h,int4_channel:q4_head,int3_channel:q3_head
all=$all,polar44_cut0:q4_head,polar:q4_head,$frames

# table NAME TEXT ARGUMENTS...
table() {
  local name=$1 text=$2
  shift 2
  printf '    phasor eval kld default %s %s -o md\n\n' "$text" "$*"
  build/release/phasor eval kld default "$texts/$text" "$@" -o md --save "$folder/$name.json"
  echo
}

table f32 emma.txt -c 8192 --max-tokens "$tokens" --precision f32 --score codes --types "$all"
table blocks emma.txt -c 8192 --max-tokens "$tokens" --precision f32 --score blocks --types "$frames"
table int8 persuasion.txt -c 8192 --max-tokens $((tokens < 16384 ? tokens : 16384)) \
  --precision int8 --score codes --types "q4_0h:q4_0h,$frames"
