"""Makes odd pictures, and records the pixels that Pillow and transformers make of them, and resized sizes.

    pip install -r scripts/reference/requirements.txt
    python scripts/reference/images.py

Writes tests/fixtures/processor/images, resized, images.json, images.safetensors and sizes.json. The
reference reads a picture so: apply the EXIF orientation; keep the top 8 of 16 bits; put transparent
pictures on white, as transformers 5 does; resize by Pillow's bicubic filter to the smart-resize size;
rescale, normalise, cut into patches.
"""

import hashlib
import random
import shutil
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from safetensors.numpy import save
from transformers.image_transforms import convert_to_rgb
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

import record
from pictures import gradient

FOLDER = Path(__file__).resolve().parents[2] / "tests" / "fixtures" / "processor"
PIXEL_STRIDE = 97
PUBLISHED_LIMITS = (56 * 56, 16384 * 28 * 28)
SMALL_LIMITS = (56 * 56, 112 * 112)
ORIENTATION = 0x0112


@dataclass
class Picture:
    """A picture file, the pixel limits it is resized under, and whether all decoders must agree on it."""

    file: str
    limits: tuple[int, int]
    exact: bool = True


def smooth(width: int, height: int, seed: int) -> Image.Image:
    """A gradient without noise, which compresses well."""
    return Image.fromarray(gradient(width, height, seed, noise=0))


def alpha_ramp(width: int, height: int) -> Image.Image:
    """An alpha channel from clear at the left to opaque at the right."""
    return Image.fromarray(np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1)))


def write_png16(path: Path, pixels: np.ndarray) -> None:
    """Writes a 16-bit grey or RGB PNG, which Pillow cannot for RGB."""
    height, width = pixels.shape[:2]
    colour = 2 if pixels.ndim == 3 else 0
    rows = pixels.astype(">u2").reshape(height, -1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw, 9)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def sixteen_bit(width: int, height: int, seed: int) -> np.ndarray:
    """A gradient whose low bytes are not copies of the high ones."""
    high = gradient(width, height, seed, noise=0).astype(np.uint16)
    low = np.random.default_rng(seed).integers(0, 256, high.shape).astype(np.uint16)
    return (high << 8) | (low & 0xF0)


def palette_with_transparency(width: int, height: int) -> Image.Image:
    """A palette picture in which one colour is clear."""
    picture = smooth(width, height, 23).quantize(16)
    picture.info["transparency"] = 3
    return picture


def write_pictures(folder: Path) -> list[Picture]:
    """Writes every picture, and says how each is to be read."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    plain = {
        "tall_20x300.png": smooth(20, 300, 31),
        "half_70x126.png": smooth(70, 126, 32),
        "wide_640x60.png": smooth(640, 60, 33),
        "one_1x1.png": Image.new("RGB", (1, 1), (200, 30, 90)),
        "noise_61x45.png": Image.fromarray(gradient(61, 45, 34, noise=40)),
        "grey_50x40.png": smooth(50, 40, 35).convert("L"),
        "bits_40x40.png": smooth(40, 40, 36).convert("1"),
        "grey_alpha_44x44.png": Image.merge("LA", [smooth(44, 44, 37).convert("L"), alpha_ramp(44, 44)]),
        "rgba_60x40.png": Image.merge("RGBA", [*smooth(60, 40, 38).split(), alpha_ramp(60, 40)]),
        "palette_48x48.png": smooth(48, 48, 39).quantize(32),
    }
    for name, picture in plain.items():
        picture.save(folder / name, optimize=True)
    palette_with_transparency(48, 48).save(folder / "palette_clear_48x48.png", transparency=3, optimize=True)
    write_png16(folder / "grey16_40x30.png", sixteen_bit(40, 30, 40)[..., 0])
    write_png16(folder / "rgb16_40x30.png", sixteen_bit(40, 30, 41))
    smooth(60, 44, 42).save(folder / "lossless_60x44.webp", lossless=True)
    smooth(60, 44, 43).save(folder / "lossy_60x44.webp", quality=80)
    smooth(90, 62, 44).save(folder / "colour_90x62.jpg", quality=85)
    smooth(90, 62, 45).convert("L").save(folder / "grey_90x62.jpg", quality=85)
    smooth(40, 40, 46).convert("CMYK").save(folder / "cmyk_40x40.jpg", quality=85)
    turned = Image.Exif()
    turned[ORIENTATION] = 6
    smooth(96, 40, 47).save(folder / "turned_96x40.jpg", quality=90, exif=turned)
    smooth(96, 40, 48).save(folder / "turned_96x40.png", exif=turned)
    smooth(300, 200, 49).save(folder / "shrunk_300x200.png", optimize=True)
    files = sorted(path.name for path in folder.iterdir())
    return [Picture(file, limits_for(file), not lossy(file)) for file in files]


def limits_for(file: str) -> tuple[int, int]:
    """Most pictures are read under the published limits, and some under small ones that shrink them."""
    return SMALL_LIMITS if file.startswith(("shrunk", "noise", "turned")) else PUBLISHED_LIMITS


def lossy(file: str) -> bool:
    """Whether decoders may differ by some levels."""
    return file.endswith(".jpg") or file.startswith("lossy")


def read(path: Path) -> np.ndarray:
    """A picture as uint8 RGB [height, width, 3], by the rules above."""
    picture = ImageOps.exif_transpose(Image.open(path))
    if picture.mode.startswith("I"):
        picture = Image.fromarray((np.array(picture) >> 8).astype(np.uint8))
    return convert_to_rgb(picture, return_numpy=True)


def resize(rgb: np.ndarray, limits: tuple[int, int]) -> Image.Image:
    """The picture at its smart-resize size."""
    height, width = smart_resize(*rgb.shape[:2], 28, *limits)
    return Image.fromarray(rgb).resize((width, height), Image.Resampling.BICUBIC)


def expectation(folder: Path, picture: Picture) -> tuple[dict, np.ndarray]:
    """What is expected of one picture, and its sampled pixel values; writes the resized picture."""
    rgb = read(folder / "images" / picture.file)
    resized = resize(rgb, picture.limits)
    name = f"resized/{picture.file}.png"
    resized.save(folder / name, optimize=True)
    smallest, largest = picture.limits
    processor = Qwen2VLImageProcessorPil(size={"shortest_edge": smallest, "longest_edge": largest})
    output = processor(Image.fromarray(rgb))
    same = Qwen2VLImageProcessorPil(do_resize=False)(resized)
    np.testing.assert_array_equal(output["pixel_values"], same["pixel_values"])
    summary = {
        "file": f"images/{picture.file}",
        "exact": picture.exact,
        "min_pixels": smallest,
        "max_pixels": largest,
        "width": rgb.shape[1],
        "height": rgb.shape[0],
        "rgb_sha256": hashlib.sha256(rgb.tobytes()).hexdigest(),
        "grid_thw": output["image_grid_thw"][0].tolist(),
        "resized": name,
    }
    return summary, np.asarray(output["pixel_values"], np.float32).ravel()[::PIXEL_STRIDE].copy()


def size_or_none(height: int, width: int, smallest: int, largest: int) -> list[int] | None:
    """The smart-resize size, or None where the shape is refused."""
    try:
        return list(smart_resize(height, width, 28, smallest, largest))
    except ValueError:
        return None


def sizes() -> list[list]:
    """200 rows [height, width, min_pixels, max_pixels, [height, width] or null]: edge cases, then others."""
    edges = [1, 13, 14, 15, 27, 28, 29, 41, 42, 43, 69, 70, 71, 98, 126, 154, 182]
    shapes = [(edge, other) for edge in edges for other in (28, 70, 300, 1000)]
    shapes += [(1, 1), (1, 200), (1, 201), (201, 1), (5, 1001), (10000, 60), (4000, 3000), (12000, 12000)]
    generator = random.Random(5)
    while len(shapes) < 200:
        shapes.append((generator.randint(10, 3000), generator.randint(10, 3000)))
    limits = [
        PUBLISHED_LIMITS,
        SMALL_LIMITS,
        (56 * 56, 1280 * 28 * 28),
        (256 * 28 * 28, 1280 * 28 * 28),
        (3136, 1003520),
    ]
    rows = [(*shape, *limits[index % len(limits)]) for index, shape in enumerate(shapes)]
    return [[*row, size_or_none(*row)] for row in rows]


def main() -> None:
    pictures = write_pictures(FOLDER / "images")
    shutil.rmtree(FOLDER / "resized", ignore_errors=True)
    (FOLDER / "resized").mkdir()
    summaries, samples = [], {}
    for picture in pictures:
        summary, values = expectation(FOLDER, picture)
        summaries.append(summary)
        samples[picture.file] = values
    record.write_json(FOLDER / "images.json", summaries)
    (FOLDER / "images.safetensors").write_bytes(save(samples))
    record.write_json(FOLDER / "sizes.json", sizes())
    print(f"{len(pictures)} pictures, {record.folder_size(FOLDER) / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
