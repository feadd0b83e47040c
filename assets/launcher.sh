#!/bin/sh
# Starts Chain-of-Zoom with the libtorch it was built for: found on this machine, or fetched once into the user's cache
# folder. `coz --fetch-libtorch` only fetches it.
set -eu

version=2.11.0
prefix=$(dirname "$(dirname "$(readlink -f "$0")")")
cache=${XDG_CACHE_HOME:-$HOME/.cache}/chain-of-zoom
program=$prefix/lib/chain-of-zoom/coz

# Whether a folder is a libtorch of this version, with CUDA or without a device for it.
is_right() {
    [ -e "$1/lib/libtorch_cuda.so" ] || return 1
    found=$(sed -n "s/^__version__ = ['\"]\([^'\"]*\).*/\1/p" "$1/version.py" 2>/dev/null || cat "$1/build-version" 2>/dev/null) || return 1
    case $found in
        "$version" | "$version"+*) return 0 ;;
        *) return 1 ;;
    esac
}

find_libtorch() {
    of_python=$(python3 -c 'import importlib.util as u; print(u.find_spec("torch").submodule_search_locations[0])' 2>/dev/null) || of_python=
    for folder in "${LIBTORCH:-}" "$prefix/lib/chain-of-zoom/libtorch" "$cache/torch-$version/torch" "$of_python"; do
        if [ -n "$folder" ] && is_right "$folder"; then
            libtorch=$folder
            return 0
        fi
    done
    return 1
}

fetch_libtorch() {
    if ! python3 -m pip --version >/dev/null 2>&1; then
        echo "coz: libtorch $version is needed, and Python's pip fetches it. This installs that:" >&2
        echo "  sudo apt-get install python3-pip" >&2
        echo "Or set LIBTORCH to a libtorch $version with CUDA that is here already." >&2
        exit 1
    fi
    mkdir -p "$cache"
    free=$(df -Pk "$cache" | awk 'NR == 2 { print int($4 / 1000000) }')
    if [ "$free" -lt 8 ]; then
        echo "coz: libtorch needs 8 GB for a moment, and $cache has $free GB free" >&2
        exit 1
    fi
    echo "Fetching libtorch $version into $cache (4.7 GB, once)" >&2
    part=$(mktemp -d "$cache/torch-$version.XXXXXX.part")
    trap 'rm -rf "$part"' EXIT
    python3 -m pip install --no-cache-dir --disable-pip-version-check --no-warn-script-location --target "$part" "torch==$version" >&2
    # What stands under the final name is complete; where another start was faster, its own is as good.
    mv -T "$part" "$cache/torch-$version" 2>/dev/null || true
    trap - EXIT
    rm -rf "$part"
}

# Libraries of the window are loaded when it opens; what is missing is better told before.
check_window() {
    missing=
    for pair in libvulkan.so.1:libvulkan1 libX11-xcb.so.1:libx11-xcb1 libXcursor.so.1:libxcursor1 libXi.so.6:libxi6 \
        libxkbcommon-x11.so.0:libxkbcommon-x11-0; do
        /sbin/ldconfig -p | grep -q "${pair%%:*}" || missing="$missing ${pair##*:}"
    done
    find /usr/share/vulkan/icd.d /etc/vulkan/icd.d -name '*.json' 2>/dev/null | grep -q . || missing="$missing mesa-vulkan-drivers"
    [ -z "$missing" ] || echo "coz: for the window this is missing: sudo apt-get install$missing" >&2
}

if ! find_libtorch; then
    if [ ! -t 2 ] && [ -n "${DISPLAY:-}${WAYLAND_DISPLAY:-}" ] && command -v x-terminal-emulator >/dev/null; then
        # Started from a menu: where it can be seen that something comes.
        x-terminal-emulator -e "$0" --fetch-libtorch
    else
        fetch_libtorch
    fi
    find_libtorch || { echo "coz: there is still no libtorch $version" >&2; exit 1; }
fi
case ${1:-} in
    --fetch-libtorch) exit 0 ;;
    zoom | full | export | replay | models | doctor | bench | random-models | train | measure | help | -*) ;;
    *) check_window ;;
esac
LD_LIBRARY_PATH=$libtorch/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export LD_LIBRARY_PATH
exec "$program" "$@"
