#!/usr/bin/env bash
# benchmarks/peers/install.sh PEER...: installs each peer into .peers/PEER, an environment of its own of 1 GB or more.
# PYTHON is its Python. Root is needed only where a peer's Debian packages are not there yet.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-python3}
# What load_model and FBGEMM's lookup need: the pair of pyproject.toml's [cpu].
model=(torch==2.13.0 fbgemm-gpu-cpu==1.8.0 numpy==2.4.6 safetensors==0.8.0 msgpack==1.2.4)

# missing SENTENCE
missing() {
    echo "install.sh: $1" >&2
    exit 1
}

# environment PEER PACKAGE...
environment() {
    local folder=$root/.peers/$1
    shift
    "$python" -m venv --clear "$folder" || missing "$python cannot make an environment (Debian: apt-get install python3-venv)"
    "$folder/bin/pip" install --quiet "$@" || {
        # Half of an environment would be taken for all of it.
        rm -rf "$folder"
        missing "pip cannot install $* for $("$python" --version); its own words are above"
    }
}

# debian PACKAGE...: nothing to do, and so no root needed, where they are there.
debian() {
    dpkg -s "$@" >/dev/null 2>&1 && return
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends "$@" >/dev/null; } ||
        missing "wants these Debian packages: apt-get install $* (as root)"
}

install() {
    case $1 in
    grpc_eager)
        environment "$1" "${model[@]}" grpcio==1.85.1
        ;;
    torchscript_grpc)
        debian g++ cmake pkg-config libgrpc++-dev
        environment "$1" "${model[@]}"
        local build=$root/.peers/$1/build
        cmake -S "$root/benchmarks/peers/$1" -B "$build" -DCMAKE_BUILD_TYPE=Release -DPEER_PYTHON="$root/.peers/$1/bin/python" >/dev/null
        cmake --build "$build" >/dev/null
        ;;
    litserve)
        environment "$1" "${model[@]}" litserve==0.2.19
        ;;
    mosec)
        environment "$1" "${model[@]}" mosec==0.9.8
        ;;
    onnxruntime)
        environment "$1" "${model[@]}" mosec==0.9.8 onnx==1.23.2 onnxruntime==1.31.1
        ;;
    ray)
        environment "$1" "${model[@]}" 'ray[serve]==2.60.0'
        ;;
    triton)
        # Its Python backend's stub is linked to Debian's Python, and nvidia-pytriton's numpy is older than numpy 2.
        debian "libpython$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
        environment "$1" "${model[@]/#numpy==*/numpy==1.26.4}" nvidia-pytriton==0.7.0
        ;;
    *)
        echo "no peer is called $1" >&2
        return 2
        ;;
    esac
    echo "installed $1 in .peers/$1"
}

[ $# -gt 0 ] || missing "which peers? (benchmarks/peers/install.sh grpc_eager litserve ...)"
for peer in "$@"; do
    install "$peer"
done
