"""Makes the fixtures of tests/parity/ncnn.rs: tiny random networks as ncnn's pairs of files, and what ncnn makes of them.

    python3 -m pip install ncnn==1.0.20261020 numpy safetensors
    python3 tests/parity/ncnn/export.py

Deterministic. The graphs are written as ncnn's converters write them: with activations and residuals fused or not, weights
in fp16 or fp32.
"""

from pathlib import Path

import ncnn
import numpy as np
from safetensors.numpy import save_file

HERE = Path(__file__).parent
FP16 = 0x01306B47


class Graph:
    def __init__(self, seed, half):
        self.random = np.random.default_rng(seed)
        self.half = half
        self.lines, self.blobs, self.bin, self.count = [], 0, b"", 0
        self.add("Input", [], ["data"], "")

    def add(self, kind, inputs, outputs, parameters):
        name = f"{kind}_{self.count}"
        self.count += 1
        self.blobs += len(outputs)
        words = [kind, name, len(inputs), len(outputs), *inputs, *outputs, parameters]
        self.lines.append(" ".join(str(word) for word in words).strip())
        return outputs[0] if outputs else None

    def new(self):
        return f"b{self.count}"

    def one(self, kind, inputs, parameters=""):
        return self.add(kind, inputs, [self.new()], parameters)

    def split(self, blob, n):
        outputs = [f"{blob}_s{self.count}_{i}" for i in range(n)]
        self.add("Split", [blob], outputs, "")
        return outputs

    def conv(self, blob, channels_in, channels_out, activation="", side=3):
        weight = self.random.normal(0, 1.2 / side / np.sqrt(channels_in), (channels_out, channels_in, side, side))
        bias = self.random.normal(0, 0.1, channels_out).astype("<f4")
        if self.half:
            data = weight.astype("<f2").tobytes()
            data = FP16.to_bytes(4, "little") + data + b"\0" * (-len(data) % 4)
        else:
            data = bytes(4) + weight.astype("<f4").tobytes()
        self.bin += data + bias.tobytes()
        size = weight.size
        return self.one("Convolution", [blob], f"0={channels_out} 1={side} 4={side // 2} 5=1 6={size} {activation}")

    def memory(self, numbers):
        self.bin += np.array(numbers, "<f4").tobytes()
        return self.one("MemoryData", [], f"0=1 1=1 2={len(numbers)}")

    def prelu(self, blob, channels):
        self.bin += self.random.uniform(0.05, 0.4, channels).astype("<f4").tobytes()
        return self.one("PReLU", [blob], f"0={channels}")

    def write(self, name):
        head = f"7767517\n{len(self.lines)} {self.blobs}\n"
        (HERE / f"{name}.param").write_text(head + "\n".join(self.lines) + "\n")
        (HERE / f"{name}.bin").write_bytes(self.bin)


def leaky(graph, blob, fused):
    return blob if fused else graph.one("ReLU", [blob], "0=2.000000e-01")


def weighed(graph, blob, base, fused):
    if fused:
        return graph.one("Eltwise", [blob, base], "0=1 -23301=2,2.000000e-01,1.000000e+00")
    scaled = graph.one("BinaryOp", [blob], "0=2 1=1 2=2.000000e-01")
    return graph.one("BinaryOp", [scaled, base], "0=0")


def rrdb(name, seed, half, features, growth, blocks, doublings, fused):
    graph = Graph(seed, half)
    activation = "9=2 -23310=1,2.000000e-01" if fused else ""
    x = graph.conv("data", 3, features)
    x, trunk = graph.split(x, 2)
    for _ in range(blocks):
        x, outer = graph.split(x, 2)
        for _ in range(3):
            parts = graph.split(x, 6)
            seen = []
            base = parts[5]
            for i in range(4):
                joined = parts[0] if i == 0 else graph.one("Concat", [parts[i], *[s.pop() for s in seen]])
                grown = graph.conv(joined, features + i * growth, growth, activation)
                grown = leaky(graph, grown, fused)
                seen.append(graph.split(grown, 4 - i))
            joined = graph.one("Concat", [parts[4], *[s.pop() for s in seen]])
            x = weighed(graph, graph.conv(joined, features + 4 * growth, features), base, fused)
        x = weighed(graph, x, outer, fused)
    x = graph.one("BinaryOp", [graph.conv(x, features, features), trunk], "0=0")
    for _ in range(doublings):
        x = graph.one("Interp", [x], "0=1 1=2.000000e+00 2=2.000000e+00")
        x = leaky(graph, graph.conv(x, features, features, activation), fused)
    x = leaky(graph, graph.conv(x, features, features, activation), fused)
    x = graph.conv(x, features, 3)
    graph.write(name)
    return x


def srvgg(name, seed, half, features, convs, scale, prelu, resize):
    graph = Graph(seed, half)
    x, base = graph.split("data", 2)
    channels = 3
    for _ in range(convs):
        if prelu:
            x = graph.prelu(graph.conv(x, channels, features), features)
        else:
            x = graph.conv(x, channels, features, "9=1")
        channels = features
    x = graph.conv(x, features, 3 * scale * scale)
    x = graph.one("PixelShuffle", [x], f"0={scale}")
    base = graph.one("Interp", [base], f"0=1 1={scale:.6e} 2={scale:.6e}")
    x = graph.one("BinaryOp", [x, base], "0=0")
    if resize != 1:
        x = graph.one("Interp", [x], f"0=3 1={resize:.6e} 2={resize:.6e}")
    graph.write(name)
    return x


def span(name, seed, half, features, scale, mean, times):
    graph = Graph(seed, half)
    x = "data"
    if mean:
        x = graph.one("BinaryOp", [x, graph.memory(mean)], "0=1")
    if times:
        x = graph.one("BinaryOp", [x], f"0=2 1=1 2={times:.6e}")
    x, base, joined = graph.split(graph.conv(x, 3, features), 3)
    parts = [joined]
    for i in range(1, 7):
        h = graph.one("Swish", [graph.conv(x, features, features)])
        if i == 6:
            h, last = graph.split(h, 2)
        h = graph.one("Swish", [graph.conv(h, features, features)])
        h, weight = graph.split(graph.conv(h, features, features), 2)
        weight = graph.one("BinaryOp", [graph.one("Sigmoid", [weight])], "0=1 1=1 2=5.000000e-01")
        h = graph.one("BinaryOp", [graph.one("BinaryOp", [h, base], "0=0"), weight], "0=2")
        x, base, first = graph.split(h, 3)
        parts += [first] if i == 1 else []
    x = graph.conv(x, features, features)
    x = graph.conv(graph.one("Concat", [parts[0], x, parts[1], last]), 4 * features, features, side=1)
    x = graph.one("PixelShuffle", [graph.conv(x, features, 3 * scale * scale)], f"0={scale}")
    graph.write(name)
    return x


def run(name, output, picture):
    net = ncnn.Net()
    for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage",
                   "use_winograd_convolution", "use_sgemm_convolution", "use_packing_layout", "use_vulkan_compute"):
        setattr(net.opt, option, False)
    net.load_param(str(HERE / f"{name}.param"))
    net.load_model(str(HERE / f"{name}.bin"))
    with net.create_extractor() as extractor:
        extractor.input("data", ncnn.Mat(picture).clone())
        return np.array(extractor.extract(output)[1])


CASES = {
    "rrdb_x4_fp16": lambda name: rrdb(name, 1, True, 12, 4, 2, 2, True),
    "rrdb_x2_fp32": lambda name: rrdb(name, 2, False, 8, 5, 1, 1, False),
    "compact_x4_fp16": lambda name: srvgg(name, 3, True, 9, 3, 4, True, 1),
    "compact_x4_to_x2": lambda name: srvgg(name, 4, True, 8, 2, 4, True, 0.5),
    "compact_x4_to_x3": lambda name: srvgg(name, 5, False, 8, 2, 4, True, 0.75),
    "compact_x2_relu": lambda name: srvgg(name, 6, False, 10, 2, 2, False, 1),
    "span_x4_fp16": lambda name: span(name, 7, True, 8, 4, (0.4, 0.5, 0.3), 20),
    "span_x2_mean": lambda name: span(name, 8, False, 6, 2, (0.1, 0.2, 0.3), None),
    "span_x2_plain": lambda name: span(name, 9, False, 6, 2, None, None),
}

tensors = {}
for i, (name, write) in enumerate(CASES.items()):
    output = write(name)
    levels = np.random.default_rng(100 + i).integers(0, 256, (3, 11 + i, 14 + 2 * i))
    picture = (levels / 255).astype(np.float32)
    tensors[f"{name}.input"] = picture[None]
    tensors[f"{name}.output"] = run(name, output, picture)[None].astype(np.float32)
    print(name, tensors[f"{name}.output"].shape, float(np.abs(tensors[f"{name}.output"]).max()))
save_file(tensors, HERE / "cases.safetensors")
