#!/bin/sh
# Starts Chain-of-Zoom with the libtorch it was built for: brought along, found on this machine, or fetched once into the
# user's cache folder. `coz --fetch-libtorch` only fetches it, with CUDA where there is an NVIDIA driver.
set -eu

version=2.11.0
prefix=$(dirname "$(dirname "$(readlink -f "$0")")")
cache=${XDG_CACHE_HOME:-$HOME/.cache}/chain-of-zoom
program=$prefix/lib/chain-of-zoom/coz
bundled=$prefix/lib/chain-of-zoom/libtorch

# As libtorch.py does, for machines without Python: a driver that CUDA 13 works with.
has_driver() {
    if [ -r /proc/driver/nvidia/version ]; then
        driver=$(sed -n '1s/^[^.]*[^.0-9]\([0-9]\{3,\}\)\..*/\1/p' /proc/driver/nvidia/version)
        [ "${driver:-580}" -ge 580 ]
    else
        [ -e /usr/lib/wsl/lib/libcuda.so.1 ] || command -v nvidia-smi >/dev/null || /sbin/ldconfig -p | grep -q libcuda.so.1
    fi
}

# Whether a folder is a libtorch of this version that has a library.
is_right() {
    [ -e "$1/lib/$2" ] || return 1
    found=$(sed -n "s/^__version__ = ['\"]\([^'\"]*\).*/\1/p" "$1/version.py" 2>/dev/null || cat "$1/build-version" 2>/dev/null) || return 1
    case $found in
        "$version" | "$version"+*) return 0 ;;
        *) return 1 ;;
    esac
}

# Sets `libtorch` to the first folder that is right and has this library.
find_libtorch() {
    for libtorch in "$bundled" "$cache/torch-$version-cpu/torch" "$cache/torch-$version/torch"; do
        if is_right "$libtorch" "$1"; then return 0; fi
    done
    libtorch=$(python3 -c 'import importlib.util as u; print(u.find_spec("torch").submodule_search_locations[0])' 2>/dev/null) &&
        is_right "$libtorch" "$1"
}

fetch_libtorch() {
    if ! command -v python3 >/dev/null; then
        echo "coz: libtorch $version is needed, and Python's pip fetches it. This installs that:" >&2
        echo "  sudo apt-get install python3-pip" >&2
        echo "Or set LIBTORCH to a libtorch $version that is here already." >&2
        return 1
    fi
    libtorch=$(python3 "$prefix/share/chain-of-zoom/libtorch.py" --without-headers "$cache")
}

# Where it can be seen that something comes: in a terminal, also when started from a menu.
fetch_in_sight() {
    if [ ! -t 2 ] && [ -n "${DISPLAY:-}${WAYLAND_DISPLAY:-}" ] && command -v x-terminal-emulator >/dev/null; then
        x-terminal-emulator -e "$0" --fetch-libtorch
        find_libtorch "$1"
    else
        fetch_libtorch
    fi
}

# What came along has no CUDA. Said at the first start; nobody waits for gigabytes unasked.
notify_cuda() {
    if [ ! -e "$cache/notified-of-cuda" ]; then
        echo "coz: this runs on the CPU. For the NVIDIA card, fetch libtorch with CUDA (2.5 GB): coz --fetch-libtorch" >&2
        { mkdir -p "$cache" && : >"$cache/notified-of-cuda"; } 2>/dev/null || true
    fi
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

if [ "${1:-}" = --fetch-libtorch ]; then
    fetch_libtorch
    exit
fi
if is_right "${LIBTORCH:-}" libtorch_cpu.so; then
    libtorch=$LIBTORCH
elif ! has_driver; then
    find_libtorch libtorch_cpu.so || fetch_in_sight libtorch_cpu.so || exit 1
elif ! find_libtorch libtorch_cuda.so; then
    if is_right "$bundled" libtorch_cpu.so; then
        libtorch=$bundled
        notify_cuda
    else
        # Where that fails, the CPU does what it can.
        fetch_in_sight libtorch_cuda.so || find_libtorch libtorch_cpu.so || exit 1
    fi
fi
case ${1:-} in
    zoom | full | export | replay | models | doctor | bench | selftest | random-models | train | measure | help | -*) ;;
    *) check_window ;;
esac
LD_LIBRARY_PATH=$libtorch/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export LD_LIBRARY_PATH
exec "$program" "$@"
