#!/usr/bin/env bash
# Builds the C++ client with sanitizers in $1 (build/cpp), runs its tests, the installed package, and all of it
# against the Python server of .venv. Debian 12: libzmq3-dev cppzmq-dev libmsgpack-cxx-dev nlohmann-json3-dev doctest-dev
# libcli11-dev pkg-config cmake g++.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
build=$(realpath -m "${1:-$root/build/cpp}")
jobs=${NARSIL_JOBS:-$(nproc)}

cmake -S "$here" -B "$build" -DCMAKE_BUILD_TYPE=Debug -DNARSIL_SANITIZE=ON \
    -DNARSIL_BUILD_TESTS=ON -DNARSIL_BUILD_EXAMPLES=ON -DNARSIL_BUILD_LOAD=ON
cmake --build "$build" -j "$jobs"
ctest --test-dir "$build" --output-on-failure

# What a user has: the installed package, found by find_package, with no sanitizer.
rm -rf "$build/prefix"
cmake --install "$build" --prefix "$build/prefix" >/dev/null
cmake -S "$here/examples" -B "$build/installed" -DCMAKE_PREFIX_PATH="$build/prefix" -DCMAKE_BUILD_TYPE=Release
cmake --build "$build/installed" -j "$jobs"

folder=$(mktemp -d)
servers=()
trap 'kill "${servers[@]}" 2>/dev/null || true; wait; rm -rf "$folder"' EXIT

# serve NAME OPTION...: a server at ipc://$folder/NAME, once it is ready.
serve() {
    local name=$1
    shift
    "$root/.venv/bin/narsil-graph" serve --bind "ipc://$folder/$name" "$@" >"$folder/$name.log" 2>&1 &
    servers+=($!)
    for _ in $(seq 300); do
        ! grep -q ^ready "$folder/$name.log" || return 0
        kill -0 ${servers[-1]} 2>/dev/null || break
        sleep 0.2
    done
    cat "$folder/$name.log"
    return 1
}

serve open
NARSIL_ENDPOINT=ipc://$folder/open ctest --test-dir "$build" -R narsil_live --output-on-failure
"$build/installed/score_batch" "ipc://$folder/open"

mkdir "$folder/keys" "$folder/authorized"
for name in server client; do
    "$root/.venv/bin/narsil-graph" keygen $name --out "$folder/keys"
done
cp "$folder/keys/client.key" "$folder/authorized"
serve curve --curve-secret-key "$folder/keys/server.key_secret" --authorized-clients "$folder/authorized"
NARSIL_ENDPOINT=ipc://$folder/curve NARSIL_SERVER_KEY=$(tail -1 "$folder/keys/server.key") \
    NARSIL_SECRET_KEY_FILE=$folder/keys/client.key_secret ctest --test-dir "$build" -R narsil_live --output-on-failure
