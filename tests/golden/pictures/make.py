"""Makes the golden cases of this folder with Pillow 11.3.0 and numpy: `python make.py`.

Later versions resize the columns of some tall pictures before the rows, which changes values by one level.

crops.safetensors   what Pillow makes of a picture under each crop convention, named `convention/WIDTHxHEIGHT/SIZE`
                    (u8 `[size, size, 3]`); the picture itself is a formula, `source` below, which the tests repeat
decoded.safetensors the pixels that Pillow's `convert("RGB")` has for each of the picture files (u8 `[height, width, 3]`)
*.jpg, *.png, ...   kinds of files that are rare, and that the tests cannot write themselves
"""

import json
import struct
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

HERE = Path(__file__).parent


def source(width, height):
    """Slopes, a fine pattern, blocks and jumps: whatever tells filters and offsets apart."""
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    value = x * 3 + y * 5 + c * 40 + (x * x + 3 * y * y) // 32 + 37 * ((x // 8 + y // 8) % 2) + 11 * (x * y % 3)
    return Image.fromarray((value % 256).astype(np.uint8))


def adm(image, size):
    """ADM's training crop: box halvings, bicubic on the shorter side, the middle."""
    while min(image.size) >= 2 * size:
        image = image.resize((image.size[0] // 2, image.size[1] // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.size[0] * scale), round(image.size[1] * scale)), Image.Resampling.BICUBIC)
    left, top = (image.size[0] - size) // 2, (image.size[1] - size) // 2
    return image.crop((left, top, left + size, top + size))


def torchvision(resample):
    """Resize(size) and CenterCrop(size) as torchvision does them on Pillow images."""

    def crop(image, size):
        width, height = image.size
        if width <= height:
            target = (size, int(size * height / width))
        else:
            target = (int(size * width / height), size)
        image = image.resize(target, resample)
        left, top = (int(round((side - size) / 2.0)) for side in target)
        return image.crop((left, top, left + size, top + size))

    return crop


def square(resample):
    """The largest square in the middle, resized."""

    def crop(image, size):
        side = min(image.size)
        left, top = (image.size[0] - side) // 2, (image.size[1] - side) // 2
        return image.resize((size, size), resample, (left, top, left + side, top + side))

    return crop


CONVENTIONS = {
    "adm": adm,
    "torchvision-bilinear": torchvision(Image.Resampling.BILINEAR),
    "torchvision-bicubic": torchvision(Image.Resampling.BICUBIC),
    "torchvision-area": torchvision(Image.Resampling.BOX),
    "square-lanczos": square(Image.Resampling.LANCZOS),
    "square-area": square(Image.Resampling.BOX),
}
SIZES = [(97, 61, 24), (61, 97, 24), (120, 90, 32), (333, 150, 32), (31, 20, 24), (40, 40, 40), (129, 257, 16)]
# A box's end lies on the centre of a row, within what is cut out.
TIES = [("torchvision-area", (333, 500, 64)), ("torchvision-area", (129, 255, 64))]


def write(path, tensors):
    """A safetensors file of u8 arrays."""
    header, data = {}, b""
    for name, array in sorted(tensors.items()):
        start = len(data)
        data += array.tobytes()
        header[name] = {"dtype": "U8", "shape": list(array.shape), "data_offsets": [start, len(data)]}
    header["__metadata__"] = {"made_by": f"Pillow {PIL.__version__}"}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def files():
    """Saves the rare kinds of files."""
    photo = source(40, 30)
    smooth = photo.resize((10, 8), Image.Resampling.BOX).resize((40, 30), Image.Resampling.BICUBIC)
    smooth.convert("CMYK").save(HERE / "cmyk.jpg", quality=95)
    smooth.convert("L").save(HERE / "grey.jpg", quality=95)
    smooth.save(HERE / "progressive.jpg", quality=95, progressive=True)
    smooth.save(HERE / "turned.jpg", quality=95, exif=turned())
    smooth.save(HERE / "rgb.jpg", quality=95, subsampling=0)
    smooth.convert("P", palette=Image.Palette.ADAPTIVE, colors=64).save(HERE / "palette.png")
    clear = smooth.convert("RGBA")
    clear.putalpha(smooth.convert("L"))
    clear.save(HERE / "alpha.png")
    smooth.convert("LA").save(HERE / "grey-alpha.png")
    smooth.convert("1").save(HERE / "bits.png")
    smooth.save(HERE / "lossless.webp", lossless=True)
    smooth.save(HERE / "lossy.webp", quality=90)
    frames = [smooth, smooth.transpose(Image.Transpose.FLIP_LEFT_RIGHT), smooth.convert("L").convert("RGB")]
    for name in ["animated.gif", "animated.webp"]:
        options = {"lossless": True} if name.endswith("webp") else {}
        frames[0].save(HERE / name, save_all=True, append_images=frames[1:], duration=50, loop=0, **options)
    smooth.save(HERE / "rgb.bmp")


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def main():
    crops = {}
    for name, (width, height, size) in [(name, size) for name in CONVENTIONS for size in SIZES] + TIES:
        crops[f"{name}/{width}x{height}/{size}"] = np.asarray(CONVENTIONS[name](source(width, height), size))
    write(HERE / "crops.safetensors", crops)
    files()
    decoded = {}
    for path in sorted(HERE.iterdir()):
        if path.suffix not in {".py", ".safetensors"}:
            decoded[path.name] = np.asarray(Image.open(path).convert("RGB"))
    write(HERE / "decoded.safetensors", decoded)


main()
