"""The machine that a plan is made for: this one, measured, or one that is described."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runtime.hardware import usable_cores
from runtime.memory import IDLE_PROCESS, available, process_memory
from runtime.rates import Rate, disk_rate, memory_rate

# Copies over 16 lanes reach about 80 % of what the PCI Express base specifications give: 15.8, 31.5 and 63 GB/s.
PCIE = {
    generation: Rate(rate, f"assumed: 16 lanes of PCIe {generation}")
    for generation, rate in ((3, 12.5e9), (4, 25e9), (5, 50e9))
}

UNKNOWN_DISK = Rate(1.25e9, "assumed: there is no file to measure at; a cloud machine's disk")


@dataclass(frozen=True)
class PlannedMachine:
    """What of a machine matters. Memory in bytes; `vram` 0 means no GPU, and `ram` is what may be had, all in all.

    `process` is what an idle process of ours takes of the RAM. `cpu` is the rate at which cores read the experts that
    they compute, None for the share of `dram` that decoding was measured to reach. `all_hit_s` is the time of a token
    whose experts are all in VRAM, None for that of a card of this size.
    """

    ram: int
    cores: int
    dram: Rate
    disk: Rate = UNKNOWN_DISK
    process: int = IDLE_PROCESS
    vram: int = 0
    pcie: Rate = PCIE[4]
    cpu: Rate | None = None
    all_hit_s: float | None = None


def this_machine(threads: int | None = None, *, dram: Rate | None = None) -> PlannedMachine:
    """This machine without its GPUs: the memory that may be had, and its rate, measured unless told; no disk."""
    process = process_memory()
    cores = threads or usable_cores()
    return PlannedMachine(ram=available(process), cores=cores, dram=dram or memory_rate(cores), process=process)


def disk_of(directory: Path, blob_bytes: int, readers: int) -> Rate:
    """The rate of the disk that a model is on, measured at its largest file; assumed where none holds a blob."""
    files = [file for file in directory.iterdir() if file.is_file()]
    largest = max(files, key=lambda file: file.stat().st_size, default=None)
    if largest is None or largest.stat().st_size < blob_bytes:
        return UNKNOWN_DISK
    return disk_rate(largest, blob_bytes, readers)
