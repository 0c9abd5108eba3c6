"""Holds `mgnt prepare-imagenet` against a Pillow pipeline, and shows how its time and memory grow.

    python3 benches/prepare.py pillow --mgnt target/release/mgnt --source photos/train --size 64 --crop adm
    python3 benches/prepare.py scale  --mgnt target/release/mgnt --files 50000 100000 200000

`pillow` prepares a folder per class turn and turn about, with as many processes as mgnt has threads. The pipeline
decodes, crops and resizes as mgnt does and writes into one mapped file: no checksums, no sync, so less work than mgnt
has. `scale` draws that many small JPEG files and prepares them. Prints one JSON object. Needs Pillow and numpy.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import PIL
from PIL import Image


def square(image, size):
    side = min(image.size)
    left, top = (image.size[0] - side) // 2, (image.size[1] - side) // 2
    return image.resize((size, size), Image.Resampling.LANCZOS, (left, top, left + side, top + side))


def adm(image, size):
    while min(image.size) >= 2 * size:
        image = image.resize((image.size[0] // 2, image.size[1] // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.size[0] * scale), round(image.size[1] * scale)), Image.Resampling.BICUBIC)
    left, top = (image.size[0] - size) // 2, (image.size[1] - size) // 2
    return image.crop((left, top, left + size, top + size))


def torchvision(image, size):
    width, height = image.size
    target = (size, int(size * height / width)) if width <= height else (int(size * width / height), size)
    image = image.resize(target, Image.Resampling.BILINEAR)
    left, top = (int(round((side - size) / 2.0)) for side in target)
    return image.crop((left, top, left + size, top + size))


CROPS = {"square": square, "adm": adm, "torchvision": torchvision}


def start(target, count, size, crop):
    global pictures, convert
    pictures = np.memmap(target, np.uint8, "r+", shape=(count, size, size, 3))
    convert = lambda path: CROPS[crop](Image.open(path).convert("RGB"), size)


def work(job):
    index, path = job
    pictures[index] = np.asarray(convert(path))


def pillow(source, target, size, crop, workers):
    files = sorted(str(path) for path in Path(source).glob("*/*"))
    with open(target, "wb") as file:
        file.truncate(len(files) * size * size * 3)
    with Pool(workers, start, (target, len(files), size, crop)) as pool:
        for _ in pool.imap_unordered(work, enumerate(files), chunksize=64):
            pass
        pool.close()
        pool.join()


def children():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def timed(action):
    wall, cpu = time.perf_counter(), children()
    action()
    return time.perf_counter() - wall, children() - cpu


def mgnt(binary, source, out, size, crop, threads):
    """Seconds, seconds of all processors, and peak memory in MiB."""
    command = [binary, "--threads", str(threads), "prepare-imagenet", "--source", str(source), "--size", str(size)]
    command += ["--crop", crop, "--out", str(out)]
    wall = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    told = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit(told)
    return time.perf_counter() - wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def against_pillow(options):
    count = sum(1 for _ in Path(options.source).glob("*/*"))
    rounds = {"pillow": [], "mgnt": []}
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        target, out = Path(scratch) / "pictures.bin", Path(scratch) / "store"
        for _ in range(options.rounds):
            action = lambda: pillow(options.source, target, options.size, options.crop, options.workers)
            rounds["pillow"].append(timed(action))
            rounds["mgnt"].append(mgnt(options.mgnt, options.source, out, options.size, options.crop, options.workers)[:2])
            shutil.rmtree(out)
    wall = {name: statistics.median(times[0] for times in all_times) for name, all_times in rounds.items()}
    cpu = {name: statistics.median(times[1] for times in all_times) for name, all_times in rounds.items()}
    return {
        "pillow_version": PIL.__version__,
        "pictures": count,
        "size": options.size,
        "crop": options.crop,
        "workers": options.workers,
        "images_per_second": {name: round(count / seconds, 1) for name, seconds in wall.items()},
        "faster": round(wall["pillow"] / wall["mgnt"], 2),
        "less_processor_time": round(cpu["pillow"] / cpu["mgnt"], 2),
        "rounds": {name: [[round(value, 2) for value in times] for times in all] for name, all in rounds.items()},
    }


def draw(folder, first, end, each):
    """Files number `first` to `end`, `each` a class, of 500 different pictures."""
    random = np.random.default_rng(1)
    contents = []
    for number in range(500):
        small = random.integers(0, 256, (6, 6, 3), np.uint8)
        path = folder / "one.jpg"
        Image.fromarray(small).resize((40 + number % 17, 40 + number % 23), Image.Resampling.BICUBIC).save(path)
        contents.append(path.read_bytes())
        path.unlink()
    for number in range(first, end):
        class_folder = folder / f"class{number // each:04}"
        if number % each == 0:
            class_folder.mkdir()
        (class_folder / f"{number:07}.jpg").write_bytes(contents[number % 500])


def scale(options):
    rows = []
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        source, out, there = Path(scratch) / "source", Path(scratch) / "store", 0
        source.mkdir()
        for files in options.files:
            draw(source, there, files, 1000)
            there = files
            seconds, cpu, peak = mgnt(options.mgnt, source, out, options.size, options.crop, options.workers)
            rows.append({"files": files, "seconds": round(seconds, 2), "processor_seconds": round(cpu, 2)})
            rows[-1]["microseconds_of_processor_a_file"] = round(1e6 * cpu / files, 1)
            rows[-1]["peak_mib"] = round(peak)
            shutil.rmtree(out)
    return {"size": options.size, "crop": options.crop, "workers": options.workers, "runs": rows}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["pillow", "scale"])
    parser.add_argument("--mgnt", required=True)
    parser.add_argument("--source", help="pillow: a folder per class")
    parser.add_argument("--files", type=int, nargs="+", default=[50_000, 100_000, 200_000], help="multiples of 1000")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--crop", choices=sorted(CROPS), default="square")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scratch", help="where to write")
    options = parser.parse_args()
    print(json.dumps(against_pillow(options) if options.what == "pillow" else scale(options), indent=1))


if __name__ == "__main__":
    main()
