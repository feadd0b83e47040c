"""Puts a libtorch where Chain-of-Zoom finds it, and prints its folder.

    python3 libtorch.py [--cpu | --cuda] [--without-headers] CACHE_FOLDER [FOLDER ...]

libtorch comes from PyTorch's package, of which the Python part is never used. Without an NVIDIA driver the part for
CUDA is not used either: then only the libraries for the CPU are fetched, 0.54 GB instead of 2.5 GB. The first FOLDER
that is right for this machine is taken as it is; else one in CACHE_FOLDER, made there where there is none.

Python 3.7 or later and pip; nothing else is needed.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile

# What the crate tch is made for; the two are pinned together.
VERSION = "2.11.0"
# The oldest driver that CUDA 13 works with.
DRIVER = 580
# The package's libraries are the same for every Python.
PYTHON = "3.12"
# With and without CUDA, measured: the download, and the most disk that is in use for a moment.
DOWNLOAD = {True: "2.5 GB", False: "0.54 GB"}
DISK_GB = {True: 4.2, False: 1.3}
# Of the CUDA toolkit, what libtorch's part for the CPU is linked to: (extra of its package, library).
FOR_CPU = [("cudart", "libcudart.so"), ("cupti", "libcupti.so")]
# The one header that includes all others.
HEADER = "include/torch/csrc/api/include/torch/torch.h"


class Failure(Exception):
    """Ends the set-up, with a message for a person."""

    code = 1


class NoPip(Failure):
    """The one that `cargo xtask setup` may put right by itself."""

    code = 3


def say(text):
    print(text, file=sys.stderr, flush=True)


# What is on this machine


def has_driver():
    """Whether there is an NVIDIA driver that CUDA 13 works with."""
    try:
        with open("/proc/driver/nvidia/version") as file:
            found = re.search(r"\b(\d{3,})\.\d+", file.readline())
    except OSError:
        return has_driver_library()
    if found and int(found.group(1)) < DRIVER:
        say(f"The NVIDIA driver {found.group(0)} is older than {DRIVER}, which CUDA 13 needs: without CUDA then.")
        return False
    return True


def has_driver_library():
    if os.path.exists("/usr/lib/wsl/lib/libcuda.so.1") or shutil.which("nvidia-smi"):
        return True
    for ldconfig in ("/sbin/ldconfig", "/usr/sbin/ldconfig"):
        try:
            known = subprocess.run([ldconfig, "-p"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
            return b"libcuda.so.1" in known
        except OSError:
            pass
    return False


def version_of(libtorch):
    """PyPI's packages have `version.py`, the plain archives `build-version`."""
    for name, pattern in (("version.py", r"^__version__ = ['\"](.*)['\"]"), ("build-version", r"^(\S+)")):
        try:
            with open(os.path.join(libtorch, name)) as file:
                found = re.search(pattern, file.read(), re.MULTILINE)
        except OSError:
            continue
        if found:
            return found.group(1)
    return None


def is_right(libtorch, cuda, headers):
    """Whether this folder can be used. `2.11.0`, `2.11.0+cu130` and `2.11.0+cpu` are all right."""
    version = version_of(libtorch)
    if version is None or version.split("+")[0] != VERSION or (headers and not has(libtorch, HEADER)):
        return False
    if not sys.platform.startswith("linux"):
        return True
    return has(libtorch, "lib/libtorch_cpu.so") and (not cuda or has(libtorch, "lib/libtorch_cuda.so"))


def has(folder, path):
    return os.path.exists(os.path.join(folder, *path.split("/")))


# Fetching


def pip(*arguments, **options):
    if sys.platform.startswith("linux"):
        options["preexec_fn"] = end_with_parent
    return subprocess.Popen([sys.executable, "-m", "pip", *arguments], stdin=subprocess.DEVNULL, **options)


def end_with_parent():
    """Has a child ended by SIGTERM when this process is killed."""
    try:
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    except (ImportError, OSError, AttributeError):
        pass


def check_pip():
    if pip("--version", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).wait() != 0:
        raise NoPip(
            f"{sys.executable} has no pip, which downloads libtorch. This installs it:\n"
            "  sudo apt-get install python3-pip\n"
            f"Or set LIBTORCH to a libtorch {VERSION} that is here already."
        )


def download(requirement, part):
    """Gets one wheel into the folder `part`; pip shows its progress."""
    wheels, temporary = os.path.join(part, "wheels"), os.path.join(part, "tmp")
    for folder in (wheels, temporary):
        os.makedirs(folder, exist_ok=True)
    arguments = ["download", "--disable-pip-version-check", "--no-cache-dir", "--no-deps", "--only-binary=:all:"]
    arguments += ["--python-version", PYTHON, "--implementation", "cp", "--dest", wheels, requirement]
    process = pip(*arguments, stdout=sys.stderr, stderr=subprocess.PIPE, env=dict(os.environ, TMPDIR=temporary))
    errors = []
    try:
        for line in process.stderr:
            errors.append(line.decode(errors="replace"))
            sys.stderr.write(errors[-1])
            sys.stderr.flush()
        status = process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    shutil.rmtree(temporary, ignore_errors=True)
    found = [os.path.join(wheels, name) for name in os.listdir(wheels) if name.endswith(".whl")]
    if status == 0 and len(found) == 1:
        return found[0]
    raise Failure(f"{requirement} could not be downloaded: {why(''.join(errors), status)}")


def why(errors, status):
    if "No space left on device" in errors:
        return "the disk is full. Free some space, or set XDG_CACHE_HOME to a folder on another disk."
    if "from versions: none" in errors or "Connection" in errors or "timed out" in errors:
        return (
            "pip reaches no package index. Is there a network? "
            "(pip's settings: PIP_INDEX_URL, PIP_CERT, HTTPS_PROXY.)"
        )
    if "No matching distribution" in errors:
        return "the package index has none for this system and processor, or pip is older than 20.3."
    if status < 0:
        return f"pip was ended by signal {-status}. Run the command again."
    return f"pip ended with {status}, see its message above. Run the command again."


class Wheel:
    """A package as a file: named by its path while it lies in `part`."""

    def __init__(self, path):
        self.path = path
        try:
            self.zip = zipfile.ZipFile(path)
            metadata = next(name for name in self.zip.namelist() if re.match(r"[^/]+\.dist-info/METADATA$", name))
            self.metadata = self.zip.read(metadata).decode()
        except (zipfile.BadZipFile, StopIteration) as error:
            raise Failure(f"{os.path.basename(path)} is no package: {error or 'METADATA is missing'}")
        self.name = re.search(r"^Name: (\S+)", self.metadata, re.MULTILINE).group(1)

    def requirements(self):
        """(name, extras, version, marker) of each package that it pins."""
        for line in re.findall(r"^Requires-Dist: (.*)", self.metadata, re.MULTILINE):
            found = re.match(r"([\w.-]+)(?:\[([^]]*)\])? *\(?==([\w.*]+)\)? *(?:;(.*))?$", line.strip())
            if found:
                name, extras, version, marker = found.groups("")
                yield name, extras.split(","), version, marker

    def unpack(self, into, wanted):
        """Unpacks the files that `wanted` names, and the licences; returns the names. The wheel is deleted."""
        done = []
        for entry in self.zip.infolist():
            place = licence(entry.filename, self.name) or (wanted(entry.filename) and entry.filename)
            if entry.is_dir() or not place:
                continue
            target = os.path.join(into, *place.split("/"))
            if ".." in place.split("/"):
                raise Failure(f"{os.path.basename(self.path)} holds {place}, which leads out of its folder")
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with self.zip.open(entry) as source, open(target, "wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
            done.append(entry.filename)
        self.delete()
        return done

    def delete(self):
        self.zip.close()
        os.remove(self.path)


def licence(name, package):
    """Where a licence of a package goes; None for any other file."""
    folder, _, file = name.rpartition("/")
    if re.match(r"[^/]+\.dist-info|nvidia/", folder) and re.match(r"(?i)(licen[cs]e|notice|copying|eula)\b", file):
        return f"licenses/{package}/{file}"
    return None


def wanted_of_torch(cuda, headers):
    def wanted(name):
        if name.startswith("torch/include/"):
            return headers
        found = re.match(r"torch/lib/([^/]+\.(so|dylib|dll|lib)\b[^/]*)$", name)
        if not found:
            return name == "torch/version.py"
        if re.search(r"torch_python|\bshm\.|libshm\.|global_deps", found.group(1)):
            return False
        # The processors' packages differ in what the part for the CPU needs, but not in what it does not need.
        for_cuda = sys.platform.startswith("linux") and re.search(r"cuda|nvrtc|nvshmem|libtorch\.so", found.group(1))
        return cuda or not for_cuda

    return wanted


def expect(wheel, done, pattern):
    if not any(re.search(pattern, name) for name in done):
        raise Failure(
            f"{os.path.basename(wheel.path)} holds no file {pattern}, which libtorch {VERSION} is known to need: "
            "is it PyTorch's own package, for this system? (pip's settings: PIP_INDEX_URL, PIP_FIND_LINKS.)"
        )


def fetch(part, cuda, headers):
    """Makes libtorch in the folder `part`."""
    linux = sys.platform.startswith("linux")
    torch = Wheel(download(f"torch=={VERSION}", part))
    pinned = list(torch.requirements())
    done = torch.unpack(part, wanted_of_torch(cuda, headers))
    files = [r"^torch/version\.py$", r"^torch/lib/(lib)?c10\.\w+$", r"^torch/lib/(lib)?torch_cpu\.\w+$"]
    files += [f"^torch/{HEADER}$"] if headers else []
    files += [r"^torch/lib/libtorch_cuda\.so$"] if cuda else []
    for pattern in files:
        expect(torch, done, pattern)
    if not linux:
        return
    nvidia = [(name, version) for name, _, version, _ in pinned if name.startswith("nvidia-")] if cuda else []
    toolkit = next(((extras, version) for name, extras, version, _ in pinned if name == "cuda-toolkit"), None)
    if toolkit:
        extras, version = toolkit
        wheel = Wheel(download(f"cuda-toolkit=={version}", part))
        for extra in extras if cuda else [extra for extra, _ in FOR_CPU]:
            pins = [pin for pin in wheel.requirements() if re.search(f"extra == ['\"]{extra}['\"]", pin[3])]
            if not pins:
                raise Failure(f"{os.path.basename(wheel.path)} does not say which package is {extra}")
            nvidia += [(name, version) for name, _, version, _ in pins]
        wheel.delete()
    for name, version in nvidia:
        wheel = Wheel(download(f"{name}=={version}", part))
        needed = r"^nvidia/.*/lib/lib[^/]*\.so[^/]*$"
        if not cuda:
            needed = f"/({'|'.join(re.escape(library) for _, library in FOR_CPU)})[^/]*$"
        done = wheel.unpack(part, lambda file: re.search(needed, file))
        expect(wheel, done, needed)


# One folder in the cache, complete or absent


def lock(folder):
    """Holds a folder while this process lives; None where another does."""
    try:
        import fcntl
    except ImportError:
        return -1
    opened = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(opened)
        return None
    return opened


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def remove_left_over(cache):
    """What set-ups left that were ended by force. The cache may be shared with machines that have other processes."""
    for name in os.listdir(cache):
        found = re.match(r"torch-.*\.(\d+)\.part$", name)
        if found and os.name == "posix" and not is_alive(int(found.group(1))):
            folder = os.path.join(cache, name)
            held = lock(folder)
            if held is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(held)


def make(cache, final, cuda, headers):
    """Makes the folder `final` in the cache."""
    check_pip()
    try:
        os.makedirs(cache, exist_ok=True)
        remove_left_over(cache)
        part = f"{final}.{os.getpid()}.part"
        os.mkdir(part)
    except OSError as error:
        raise Failure(
            f"{cache} cannot be written to ({error.strerror}). Set XDG_CACHE_HOME to a folder that can, or "
            f"LIBTORCH to a libtorch {VERSION} that is here already."
        )
    try:
        held = lock(part)
        free = shutil.disk_usage(part).free / 1e9
        if free < DISK_GB[cuda]:
            raise Failure(
                f"{cache} has {free:.1f} GB free, but libtorch needs {DISK_GB[cuda]} GB while it is set up: "
                "free some, or set XDG_CACHE_HOME to a folder on another disk."
            )
        what = "with CUDA" if cuda else "without CUDA"
        say(f"Downloading libtorch {VERSION} {what} into {final}: about {DOWNLOAD[cuda]}, once")
        try:
            fetch(part, cuda, headers)
        except OSError as error:
            raise Failure(f"{error.filename or part}: {error.strerror}. Is the disk full? ({cache})")
        shutil.rmtree(os.path.join(part, "wheels"), ignore_errors=True)
        if hasattr(os, "sync"):
            os.sync()
        if held not in (None, -1):
            os.close(held)
        publish(part, final, cuda, headers)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def publish(part, final, cuda, headers):
    """Gives the finished folder its name, unless another set-up was faster: its own is as good."""
    old = f"{final}.old.{os.getpid()}.part"
    for _ in range(3):
        if is_right(os.path.join(final, "torch"), cuda, headers):
            return
        try:
            if os.path.lexists(final):
                os.rename(final, old)
            os.rename(part, final)
            return
        except OSError as error:
            problem = error
        finally:
            shutil.rmtree(old, ignore_errors=True)
        time.sleep(0.1)
    raise Failure(f"{part} cannot be renamed to {final}: {problem.strerror}")


def find_or_make(options):
    cuda = options.cuda or (not options.cpu and sys.platform.startswith("linux") and has_driver())
    headers = not options.without_headers
    names = {True: f"torch-{VERSION}", False: f"torch-{VERSION}-cpu"}
    final = {kind: os.path.join(os.path.abspath(options.cache), name) for kind, name in names.items()}
    places = options.folders + [os.path.join(final[cuda], "torch")]
    if not cuda and not options.cpu:
        places.append(os.path.join(final[True], "torch"))
    for place in places:
        if is_right(place, cuda, headers):
            return os.path.abspath(place)
    make(os.path.dirname(final[cuda]), final[cuda], cuda, headers)
    return os.path.join(final[cuda], "torch")


def main():
    parser = argparse.ArgumentParser(description="Puts a libtorch where Chain-of-Zoom finds it, and prints its folder.")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--cpu", action="store_true", help="without CUDA, also where there is an NVIDIA driver")
    kind.add_argument("--cuda", action="store_true", help="with CUDA, also where there is no NVIDIA driver")
    parser.add_argument("--without-headers", action="store_true", help="only to run programs, not to compile them")
    parser.add_argument("cache", help="where it is kept")
    parser.add_argument("folders", nargs="*", help="taken instead, where one is right for this machine")
    options = parser.parse_args()

    def stop(number, _):
        # Once: what is begun is cleared away in peace.
        for each in signals:
            signal.signal(each, signal.SIG_IGN)
        say("libtorch.py: interrupted; nothing is left behind")
        sys.exit(128 + number)

    signals = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    for each in signals:
        signal.signal(each, stop)
    try:
        print(find_or_make(options))
    except Failure as failure:
        say(f"libtorch.py: {failure}")
        sys.exit(failure.code)


main()
