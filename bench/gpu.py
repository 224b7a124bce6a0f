"""What a GPU computes and how fast: `python -m bench.gpu COMMAND`. Needs torch, triton, numpy, safetensors, tokenizers.

check     the kernels' bits, then those of whole models beside the CPU's, in every way that experts are treated
kernels   experts over the link and in a decode step, attention, and products, beside plain copies
decode    tokens a second with all experts in VRAM, at forced hit rates beside predictions, and with a recorded skew
prefill   a prompt of 8192 tokens
exclusive peak of host memory where each expert is kept once
all       one after another, each in a process of its own

A model of the shape has random weights that are drawn in memory. bench/results/gpu-COMMAND.json is kept at each figure.
With TRITON_INTERPRET=1 and --shape tiny it runs without a GPU: its times mean nothing, and are kept only with -o.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from bench.gpu_report import Report
from bench.place import RESULTS, ROOT
from kernels.gpu.launch import INTERPRETING
from runtime.measuring.random_pack import RandomModel

COMMANDS = ("check", "kernels", "decode", "prefill", "exclusive")
SHAPES = ("flash", "mini", "tiny")
CAP = 15_000_000_000

# Of a model that is compared with the CPU's, the layers; and of a smaller one than the cap is for, the part in VRAM.
CHECKED_LAYERS = 4
CAPPED_SHARE = 0.28

# A command is begun with so many seconds left.
LEAST_SECONDS = 60


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    if not INTERPRETING and not torch.cuda.is_available():
        print("torch finds no GPU. For a dry run: TRITON_INTERPRET=1 and --shape tiny", file=sys.stderr)
        return 2
    if options.command == "all":
        return _all(sys.argv[1:] if arguments is None else arguments, options.seconds)
    model = _model(options)
    place = options.output or (None if INTERPRETING else RESULTS)
    asked = {"command": options.command, "shape": options.shape, "layers": model.layers, "formats": model.formats}
    report = Report(place and place / f"gpu-{options.command}.json", asked, options.seconds)
    report.say(f"{options.command}: {options.shape}, {model.layers} layers, {model.nbytes / 1e9:.2f} GB")
    try:
        _run(options.command, report, model, _cap(options, model))
    except BaseException as error:
        report.failure(f"{type(error).__name__}: {error}")
        raise
    report.finish()
    return 1 if report.failed else 0


def _run(command: str, report: Report, model: RandomModel, cap: int) -> None:
    if command == "check":
        from bench import gpu_check

        gpu_check.run(report, model)
    elif command == "kernels":
        from bench import gpu_kernels

        gpu_kernels.run(report, model)
    elif command == "decode":
        from bench import gpu_decode

        gpu_decode.run(report, model, cap)
    else:
        from bench import gpu_prompts

        {"prefill": gpu_prompts.prefill, "exclusive": gpu_prompts.exclusive}[command](report, model, cap)


def _model(options: argparse.Namespace) -> RandomModel:
    from bench.gpu_model import random_model

    # What the CPU computes too is to be small.
    options.shape = options.shape or ("tiny" if INTERPRETING else "mini" if options.command == "check" else "flash")
    layers = options.layers or (CHECKED_LAYERS if options.command == "check" and options.shape != "tiny" else None)
    return random_model(options.shape, layers)


def _cap(options: argparse.Namespace, model: RandomModel) -> int:
    if options.cap is not None:
        return int(options.cap * 1e9)
    return min(CAP, int(CAPPED_SHARE * model.geometry.nbytes) + model.geometry.blob_bytes)


def _all(arguments: Sequence[str], seconds: float) -> int:
    """A process each: memory is given back, and one that fails takes none of the others along."""
    rest = [argument for argument in arguments if argument != "all"]
    started, codes = time.monotonic(), []
    for command in COMMANDS:
        left = seconds - (time.monotonic() - started)
        if left < LEAST_SECONDS:
            print(f"skipped, {left:.0f} s are left: {command}", file=sys.stderr)
            continue
        # Of an option that is given twice the last counts.
        run = (sys.executable, "-m", "bench.gpu", command, *rest, "--seconds", str(left))
        codes.append(subprocess.run(run, cwd=ROOT, check=False).returncode)
    return max(codes, default=1)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=(*COMMANDS, "all"))
    parser.add_argument("--shape", choices=SHAPES, help="flash unless told; of check mini, and tiny when interpreted")
    parser.add_argument("--layers", type=int, help="fewer than the shape has")
    parser.add_argument("--cap", type=float, help="GB of experts in VRAM, 15 unless told")
    parser.add_argument("--seconds", type=float, default=570, help="after which nothing more is begun")
    parser.add_argument("-o", "--output", type=Path, help="the folder of results")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
