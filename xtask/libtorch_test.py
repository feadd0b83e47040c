"""Tests of assets/libtorch.py with small packages of the same layout, from a folder instead of an index."""

import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import zipfile

SCRIPT = pathlib.Path(__file__).parent.parent / "assets" / "libtorch.py"
HEADER = "torch/include/torch/csrc/api/include/torch/torch.h"
LIBRARIES = ["c10", "torch", "torch_cpu", "torch_python", "torch_cuda", "torch_cuda_linalg", "shm", "caffe2_nvrtc"]
TORCH = ["torch/version.py", "torch/nn.py", HEADER, "torch/lib/libgomp.so.1", "torch-2.11.0.dist-info/LICENSE"]
TORCH += [f"torch/lib/lib{name}.so" for name in LIBRARIES]
LINUX = "platform_system == 'Linux'"
NO_PIP = subprocess.run([sys.executable, "-m", "pip", "--version"], stdout=subprocess.DEVNULL).returncode != 0


@unittest.skipUnless(sys.platform.startswith("linux"), "the packages are made for Linux")
@unittest.skipIf(NO_PIP, "there is no pip")
class Libtorch(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)
        self.cache = self.root / "cache"
        self.packages = self.root / "packages"
        self.packages.mkdir()
        # What is not needed is not there: asked for, it is an error.
        pins = [f"cuda-toolkit[cudart,cupti,cufft]==13.0.2; {LINUX}", f"nvidia-nccl-cu13==2.28; {LINUX}"]
        self.package("torch", "2.11.0", TORCH, pins + [f"triton==3.6.0; {LINUX}", "filelock", "sympy>=1.13"])
        pins = [f"nvidia-{name}==1.2.*; {LINUX} and extra == '{extra}'" for name, extra in
                [("cuda-runtime", "cudart"), ("cuda-cupti", "cupti"), ("cufft", "cufft"), ("npp", "npp")]]
        self.package("cuda-toolkit", "13.0.2", [], pins)
        self.package("nvidia-cuda-runtime", "1.2.3", ["nvidia/cu13/lib/libcudart.so.13", "nvidia/cu13/include/a.h"])
        self.package("nvidia-cuda-cupti", "1.2.3", ["nvidia/cu13/lib/libcupti.so.13", "nvidia/cu13/lib/libperf.so"])
        self.package("nvidia-cufft", "1.2.9", ["nvidia/cu13/lib/libcufft.so.12", "nvidia/cu13/lib/libcufft.a"])
        self.package("nvidia-nccl-cu13", "2.28", ["nvidia/nccl/lib/libnccl.so.2", "nvidia/nccl/LICENSE.txt"])

    def package(self, name, version, files, pins=()):
        stem = f"{name.replace('-', '_')}-{version}"
        with zipfile.ZipFile(self.packages / f"{stem}-py3-none-any.whl", "w") as wheel:
            lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
            wheel.writestr(f"{stem}.dist-info/METADATA", "\n".join(lines + [f"Requires-Dist: {pin}" for pin in pins]))
            wheel.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            for file in files:
                wheel.writestr(file, f"__version__ = '{version}+cu130'\n" if file.endswith("version.py") else name)

    def start(self, *options, **environment):
        index = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.packages), "PIP_CONFIG_FILE": os.devnull}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "universal_newlines": True}
        command = [sys.executable, str(SCRIPT), *map(str, options)]
        return subprocess.Popen(command, env={**os.environ, **index, **environment}, **pipes)

    def succeeds(self, *options):
        process = self.start(*options)
        out, errors = process.communicate()
        self.assertEqual(process.returncode, 0, errors)
        return pathlib.Path(out.strip())

    def fails(self, *options):
        process = self.start(*options)
        errors = process.communicate()[1]
        self.assertEqual(process.returncode, 1, errors)
        self.assertEqual(list(self.cache.glob("*")), [])
        return errors

    def files(self, folder):
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())

    def test_the_light_one_holds_what_is_used(self):
        libtorch = self.succeeds("--cpu", self.cache)
        self.assertEqual(libtorch, self.cache / "torch-2.11.0-cpu" / "torch")
        wanted = ["licenses/torch/LICENSE", "nvidia/cu13/lib/libcudart.so.13", "nvidia/cu13/lib/libcupti.so.13", HEADER]
        wanted += [f"torch/lib/lib{name}" for name in ("c10.so", "gomp.so.1", "torch_cpu.so")]
        self.assertEqual(self.files(libtorch.parent), sorted(wanted + ["torch/version.py"]))
        self.assertEqual(os.listdir(self.cache), ["torch-2.11.0-cpu"])
        # It is there from now on, without packages.
        for package in self.packages.iterdir():
            package.unlink()
        self.assertEqual(self.succeeds("--cpu", self.cache), libtorch)
        self.assertEqual(self.succeeds("--cpu", self.root / "other", libtorch), libtorch)

    def test_the_one_with_cuda_holds_what_is_used(self):
        libtorch = self.succeeds("--cuda", "--without-headers", self.cache)
        wanted = ["cudart.so.13", "cupti.so.13", "perf.so", "cufft.so.12"]
        wanted = [f"nvidia/cu13/lib/lib{name}" for name in wanted] + ["nvidia/nccl/lib/libnccl.so.2"]
        wanted += ["licenses/torch/LICENSE", "licenses/nvidia-nccl-cu13/LICENSE.txt", "torch/version.py"]
        wanted += [f"torch/lib/lib{name}.so" for name in LIBRARIES if name not in ("torch_python", "shm")]
        self.assertEqual(self.files(libtorch.parent), sorted(wanted + ["torch/lib/libgomp.so.1"]))
        # To compile, headers are needed: the whole is made anew.
        self.assertEqual(self.succeeds("--cuda", self.cache), libtorch)
        self.assertTrue((libtorch.parent / HEADER).exists())
        self.assertEqual(os.listdir(self.cache), ["torch-2.11.0"])

    def test_a_package_without_an_expected_file_leaves_nothing(self):
        self.package("torch", "2.11.0", [file for file in TORCH if "torch_cpu" not in file])
        errors = self.fails("--cpu", self.cache)
        self.assertIn("torch-2.11.0-py3-none-any.whl holds no file", errors)
        self.assertIn("torch_cpu", errors)

    def test_a_broken_package_leaves_nothing(self):
        wheel = self.packages / "nvidia_cuda_cupti-1.2.3-py3-none-any.whl"
        wheel.write_bytes(wheel.read_bytes()[:200])
        self.assertIn("nvidia", self.fails("--cpu", self.cache))

    def test_what_a_killed_set_up_left_is_removed(self):
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        (self.cache / f"torch-2.11.0-cpu.{ended.pid}.part" / "wheels").mkdir(parents=True)
        alive = self.cache / f"torch-2.11.0.{os.getpid()}.part"
        alive.mkdir()
        self.succeeds("--cpu", self.cache)
        self.assertEqual(sorted(os.listdir(self.cache)), ["torch-2.11.0-cpu", alive.name])

    def test_two_at_once_end_well(self):
        both = [self.start("--cpu", self.cache) for _ in range(2)]
        outcomes = [(process.communicate()[0], process.returncode) for process in both]
        self.assertEqual(outcomes, [(f"{self.cache}/torch-2.11.0-cpu/torch\n", 0)] * 2)
        self.assertEqual(os.listdir(self.cache), ["torch-2.11.0-cpu"])

    def test_an_ended_set_up_leaves_nothing_and_no_pip(self):
        pip = self.root / "pip"
        pip.mkdir()
        pid = self.root / "pid"
        lines = ["import os, sys, time", f"open({str(pid)!r}, 'w').write(str(os.getpid()))"]
        (pip / "__main__.py").write_text("\n".join(lines + ["time.sleep(60 if 'download' in sys.argv else 0)"]))
        (pip / "__init__.py").write_text("")
        for number in (signal.SIGINT, signal.SIGTERM):
            process = self.start("--cpu", self.cache, PYTHONPATH=str(self.root))
            while not list(self.cache.glob("*.part/tmp")):
                time.sleep(0.02)
            time.sleep(0.3)
            process.send_signal(number)
            errors = process.communicate(timeout=20)[1]
            self.assertEqual(process.returncode, 128 + number, errors)
            self.assertEqual(os.listdir(self.cache), [])
            with self.assertRaises(ProcessLookupError):
                os.kill(int(pid.read_text()), 0)


if __name__ == "__main__":
    unittest.main()
