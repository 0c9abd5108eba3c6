"""One table of what `benches/device.sh` left in a folder: python3 benches/device_table.py OUT"""

import glob
import json
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
        failed = [row for row in answer["rows"] if "failed" in row]
        within = [row for row in measured if row["worst"] <= row["limit"]]
        farthest = max(measured, key=lambda row: row["worst"] / row["limit"], default=None)
        told = f"{farthest['worst'] / farthest['limit']:.2f} ({farthest['case']})" if farthest else "-"
        print(f"| {of} | {len(within)} of {len(measured) + len(failed)} | {told} |")


def times(out):
    torch = {}
    for of, rest, answer in parts(out, "torch"):
        batch, compiled = re.match(r"\d+", rest).group(), rest.endswith("compile")
        theirs = next(row for row in answer if row["name"].startswith("PyTorch"))
        torch[of, int(batch), compiled] = theirs["milliseconds"]

    def beside(of, batch, compiled, ms):
        theirs = torch.get((of, batch, compiled))
        return f"{theirs / ms:.2f}x" if theirs else "-"

    print("\n| what | type | batch | ms | samples/s | faster | of the matrix peak | of PyTorch eager | of compiled |")
    print("|---|---|---|---|---|---|---|---|---|")
    for kind in ("decode", "forward"):
        for of, _, answer in parts(out, kind):
            for row in answer["rows"]:
                ms, batch, rate = row["milliseconds"], row["batch"], row["gflops_per_second"]
                peak = f"{100 * rate / answer['matrix_peak_gflops']:.1f} %" if rate else "-"
                # PyTorch's are decodes.
                pair = [beside(of, batch, c, ms) if kind == "decode" else "-" for c in (False, True)]
                cells = [row["name"], of, batch, f"{ms:.1f}", f"{row['samples_per_second']:.2f}", f"{row['faster']:.2f}x"]
                print("| " + " | ".join(map(str, [*cells, peak, *pair])) + " |")
            print(f"| a large product: {answer['matrix_peak_gflops'] / 1e3:.2f} TFLOP/s | {of} | | | | | | | |")
    for (of, batch, compiled), ms in sorted(torch.items()):
        name = "PyTorch, compiled" if compiled else "PyTorch, eager"
        print(f"| {name} | {of} | {batch} | {ms:.1f} | {1e3 * batch / ms:.2f} | | | | |")
    train = read(os.path.join(out, "train.out"))
    for row in train["rows"] if train else []:
        ms, rate = row["milliseconds"], row["samples_per_second"]
        print(f"| {row['name']} | {train['dtype']} | {row['batch']} | {ms:.1f} | {rate:.2f} | {row['faster']:.2f}x | | | |")


if len(sys.argv) != 2:
    sys.exit(__doc__)
parity(sys.argv[1])
times(sys.argv[1])
