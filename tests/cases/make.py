"""Makes the cases of other formats: every one is the same gradient, so that all are compared with gradient.expected.png.

pip install numpy pillow tifffile imagecodecs OpenEXR pillow-heif
"""

import os

import imagecodecs
import numpy as np
import OpenEXR
import tifffile
from PIL import Image, ImageCms

os.chdir(os.path.dirname(os.path.abspath(__file__)))
W, H = 64, 48
g = np.zeros((H, W, 3), np.uint8)
g[..., 0] = np.linspace(40, 215, W)[None]
g[..., 1] = np.linspace(60, 200, H)[:, None]
g[..., 2] = 120
image = Image.fromarray(g)
image.save("gradient.expected.png")

wide = g.astype(np.uint16) * 257
tifffile.imwrite("lzma.tif", g, photometric="rgb", compression="lzma", predictor=2)
tifffile.imwrite("lzma16.tif", wide, photometric="rgb", compression="lzma", byteorder=">", tile=(16, 16))
tifffile.imwrite("planar16.tif", np.moveaxis(wide, -1, 0).copy(), photometric="rgb", planarconfig="separate", compression="deflate")
tifffile.imwrite("int16.tif", (wide.astype(np.int32) - 32768).astype(np.int16), photometric="rgb", compression="zstd")
tifffile.imwrite("half.tif", (g / 255).astype(np.float16), photometric="rgb", compression="deflate")
with tifffile.TiffWriter("thumbnail.tif") as out:
    out.write(g[::4, ::4].copy(), photometric="rgb", subfiletype=1, subifds=1)
    out.write(g, photometric="rgb", compression="lzw")
srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
to_lab = ImageCms.buildTransform(srgb, lab, "RGB", "LAB", renderingIntent=1)
ImageCms.applyTransform(image, to_lab).save("lab.tif", compression="tiff_lzw")

open("x.jxl", "wb").write(imagecodecs.jpegxl_encode(g, lossless=True))
open("x.qoi", "wb").write(imagecodecs.qoi_encode(g))
image.save("x.dds")
image.save("444.avif", quality=100, subsampling="4:4:4")
linear = np.where(g <= 10, g / 255 / 12.92, ((g / 255 + 0.055) / 1.055) ** 2.4).astype(np.float32)
open("x.hdr", "wb").write(imagecodecs.rgbe_encode(linear, header=True))
with OpenEXR.File({"compression": OpenEXR.PIZ_COMPRESSION, "type": OpenEXR.scanlineimage}, {"RGB": linear.astype(np.float16)}) as file:
    file.write("x.exr")
with OpenEXR.File({"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}, {"RGB": linear * 8}) as file:
    file.write("bright.exr")
