"""One table of what `benches/device.sh` left in a folder: python3 benches/device_table.py OUT"""

import glob
import json
import math
import os
import re
import sys


def read(path):
    """JSON of a part, or nothing where it failed."""
    try:
        with open(path) as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


def parts(out, kind):
    """Type, rest of the name and answer of each part of a kind."""
    for path in sorted(glob.glob(os.path.join(out, f"{kind}-*.out"))):
        of, rest = re.fullmatch(rf"{kind}-([^-]+)-?(.*)\.out", os.path.basename(path)).groups()
        answer = read(path)
        if answer is not None:
            yield of, rest, answer


def parity(out):
    print("| parity | cases within their limits | the farthest, of its limit |\n|---|---|---|")
    for of, _, answer in parts(out, "parity"):
        measured = [row for row in answer["rows"] if "worst" in row]
        for row in measured:
            # What is no number in JSON is beyond every limit.
            row["worst"] = math.inf if row["worst"] is None else row["worst"]
        failed = [row for row in answer["rows"] if "failed" in row]
        within = [row for row in measured if row["worst"] <= row["limit"]]
        farthest = max(measured, key=lambda row: row["worst"] / row["limit"], default=None)
        told = f"{farthest['worst'] / farthest['limit']:.2f} ({farthest['case']})" if farthest else "-"
        print(f"| {of} | {len(within)} of {len(measured) + len(failed)} | {told} |")


def times(out):
    # Both sides of each took their turns in one run: ratios are of that.
    torch, beside = {}, {}
    for of, rest, answer in parts(out, "torch"):
        batch = int(re.match(r"\d+", rest).group())
        how = next((how for how in HOW if how and rest.endswith(how)), "")
        for row in answer:
            if row["name"].startswith("PyTorch"):
                torch[of, batch, how] = row["milliseconds"]
            else:
                beside[of, batch, how, row["name"]] = f"{row['times_torch']:.2f}x"

    titles = " | ".join(f"of PyTorch {title}" for title in HOW.values())
    print(f"\n| what | type | batch | ms | samples/s | faster | of the matrix peak | {titles} |")
    print("|---|---|---|---|---|---|---|" + "---|" * len(HOW))
    rest = "| " * len(HOW) + "|"
    for kind in ("decode", "forward"):
        for of, _, answer in parts(out, kind):
            for row in answer["rows"]:
                ms, batch, rate = row["milliseconds"], row["batch"], row["gflops_per_second"]
                peak = f"{100 * rate / answer['matrix_peak_gflops']:.1f} %" if rate else "-"
                # PyTorch's are decodes.
                pair = [beside.get((of, batch, how, row["name"]), "-") for how in HOW]
                cells = [row["name"], of, batch, f"{ms:.1f}", f"{row['samples_per_second']:.2f}", f"{row['faster']:.2f}x"]
                print("| " + " | ".join(map(str, [*cells, peak, *pair])) + " |")
            print(f"| a large product: {answer['matrix_peak_gflops'] / 1e3:.2f} TFLOP/s | {of} | | | | | {rest}")
    for (of, batch, how), ms in sorted(torch.items()):
        print(f"| PyTorch {HOW[how]} | {of} | {batch} | {ms:.1f} | {1e3 * batch / ms:.2f} | | {rest}")
    train = read(os.path.join(out, "train.out"))
    for row in train["rows"] if train else []:
        ms, rate = row["milliseconds"], row["gflops_per_second"]
        peak = f"{100 * rate / train['matrix_peak_gflops']:.1f} %" if rate else "-"
        cells = [row["name"], train["dtype"], row["batch"], f"{ms:.1f}", f"{row['samples_per_second']:.2f}", f"{row['faster']:.2f}x"]
        if row["name"].startswith("checkpoint"):
            cells[4:] = ["", ""]
        print("| " + " | ".join(map(str, [*cells, peak])) + f" {rest}")
    for row in read(os.path.join(out, "train-torch.out")) or []:
        print(f"| step, {row['name']}, without dropout | | {row['batch']} | {row['milliseconds']:.1f} | | | | {row['times_torch']:.2f}x " + rest[2:])


# How PyTorch runs, by the end of a part's name.
HOW = {"": "eager", "--compile": "compiled", "--compile=reduce-overhead": "compiled with graphs"}

if len(sys.argv) != 2:
    sys.exit(__doc__)
ended = 0
for table in (parity, times):
    try:
        table(sys.argv[1])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # The other table says what it can.
        print(f"\n{table.__name__}: {type(error).__name__}: {error}", file=sys.stderr)
        ended = 1
sys.exit(ended)
