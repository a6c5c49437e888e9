#!/bin/bash
# Builds llama-cpp-python (llama.cpp behind a Python API) once, into an environment of its own, and
# prints the path of its python. About ten minutes on two cores. A second call only prints the path.
#
# PHASOR_PEER_PYTHON=/path/to/python uses an environment that exists instead.
set -euo pipefail
version=0.3.36

if [[ -n "${PHASOR_PEER_PYTHON:-}" ]]; then
  echo "$PHASOR_PEER_PYTHON"
  exit 0
fi
folder=${PHASOR_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/phasor}/peers/llama-cpp-python-$version
python=$folder/venv/bin/python
if [[ -f $folder/done ]]; then
  echo "$python"
  exit 0
fi

has() { grep -qw "$1" /proc/cpuinfo; }
arguments=()
if has amx_tile; then
  # A native build of this version crashes in its first decode on CPUs with AMX: everything but AMX.
  arguments=(-DGGML_NATIVE=OFF -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON)
  if has avx512f; then arguments+=(-DGGML_AVX512=ON); fi
  if has avx512_vnni; then arguments+=(-DGGML_AVX512_VNNI=ON); fi
  if has avx512vbmi; then arguments+=(-DGGML_AVX512_VBMI=ON); fi
  if has avx512_bf16; then arguments+=(-DGGML_AVX512_BF16=ON); fi
else
  arguments=(-DGGML_NATIVE=ON)
fi

mkdir -p "$folder"
log=$folder/build.log
echo "peers: building llama-cpp-python $version (${arguments[*]}), log: $log" >&2
rm -rf "$folder/venv"
if ! python3 -m venv "$folder/venv" > "$log" 2>&1; then
  tail -n 5 "$log" >&2
  echo "peers: python3 -m venv failed; Debian has it in the package python3-venv" >&2
  exit 1
fi
if ! CMAKE_ARGS="${arguments[*]}" CMAKE_BUILD_PARALLEL_LEVEL=${JOBS:-$(nproc)} "$python" -m pip \
  install --no-cache-dir --no-binary llama-cpp-python "llama-cpp-python==$version" >> "$log" 2>&1; then
  tail -n 20 "$log" >&2
  echo "peers: the build failed; the whole log: $log" >&2
  exit 1
fi
"$python" -c "import llama_cpp" >> "$log" 2>&1 || { tail -n 5 "$log" >&2; exit 1; }
echo "${arguments[*]}" > "$folder/done"
echo "$python"
