"""Patches per CPU-second of members on a CPU, before and after what made them faster.

    python -m tests.benchmarks.cpu_networks [--members demo|paper] [--rounds 3]
    python -m tests.benchmarks.cpu_networks --members dpt --side 512 \
        --only "folded: as a run"

Before: freed memory goes back to the system, maps are stored channel by channel, and a
batch has 4 patches (of the demo 8). Then freed memory is kept, channels lie together
(channels-last), a batch has as many patches as a run takes on a CPU, and batch
normalization is folded. Each round is a fresh process per kind, in turn, of one thread;
the demo's members on 256 px, the paper's with random weights on 1024. The ratio is the
median of the rounds'. ``--members`` may also name one of the paper's, or ``dpt`` or
``light-dpt``, DPTs with a transformer of timm, alone. ``--only`` prints the seconds of
a patch, the mean of what is said, and the most memory that the process had, GB.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor

import digipath_ray.demo
from digipath_ray.config.run import CPU_BATCH_PX, MemberSpec
from digipath_ray.machine import keep_freed_memory
from digipath_ray.networks import folding, weights
from digipath_ray.networks.build import PAPER_MEMBERS, Member
from digipath_ray.networks.card import read_card
from digipath_ray.networks.normalization import normalize
from digipath_ray.networks.weights import card_spec, load_member

WEIGHTS = Path(digipath_ray.demo.__file__).parent / "weights"
KINDS = ("before", "memory kept", "channels-last", "small batches", "folded: as a run")

DPT = MemberSpec(name="dpt", architecture="DPT", encoder="tu-vit_small_patch16_224")
LIGHT_DPT = replace(
    DPT,
    name="light-dpt",
    options={
        "decoder_fusion_channels": 64,
        "decoder_intermediate_channels": [48, 96, 192, 384],
    },
)
NAMED = {spec.name: spec for spec in (*PAPER_MEMBERS, DPT, LIGHT_DPT)}


def specs(members: str, side: int) -> tuple[list[MemberSpec], int, int, int]:
    """Members, side of a patch, former batch, and patches to predict."""
    if members in NAMED:
        return [replace(NAMED[members], weights="random")], side, 4, 4
    if members == "paper":
        random = [replace(spec, weights="random") for spec in PAPER_MEMBERS]
        return random, side, 4, 4
    paths = sorted(WEIGHTS.glob("*.safetensors"))
    return [card_spec(read_card(path), path) for path in paths], 256, 8, 32


def contiguous(member: Member) -> Callable[[Tensor], Tensor]:
    """The member as it was, its maps channel by channel."""
    member.network.to(memory_format=torch.contiguous_format)

    def forward(pixels: Tensor) -> Tensor:
        inputs = normalize(pixels, member.mean, member.std).contiguous()
        logits = member.network(inputs)
        return (logits / member.answer.temperature).softmax(dim=1)[:, 1]

    return forward


@torch.inference_mode()
def predict(members: str, kind: str, patch_px: int) -> list[float]:
    """Seconds of a patch in all members, the mean of what they say, and peak GB."""
    number = KINDS.index(kind)
    if number > 0:
        keep_freed_memory()
    torch.set_num_threads(1)
    chosen, side, batch, patches = specs(members, patch_px)
    fold = folding.fold_batch_norm if number > 3 else lambda network: network
    with mock.patch.object(weights, "fold_batch_norm", fold):
        loaded = [load_member(spec, patch_px=side) for spec in chosen]
    networks = loaded if number > 1 else [contiguous(member) for member in loaded]
    if number > 2:
        batch = max(1, CPU_BATCH_PX // side**2)
    generator = torch.Generator().manual_seed(0)
    shape = (patches, 3, side, side)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    for network in networks:
        network(pixels[:batch])  # memory, and kernels chosen
    started, total = time.perf_counter(), 0.0
    for start in range(0, patches, batch):
        for network in networks:
            total += float(network(pixels[start : start + batch]).double().sum())
    seconds = (time.perf_counter() - started) / patches
    # Linux counts in KiB.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return [seconds, total / patches / side**2 / len(networks), peak]


def measure(members: str, kind: str, side: int) -> tuple[float, float]:
    """The same in a process of its own: malloc's options hold for its life."""
    command = [sys.executable, "-m", __spec__.name, "--members", members]
    command += ["--only", kind, "--side", str(side)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, mean, _ = json.loads(done.stdout)
    return seconds, mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", choices=("demo", "paper", *NAMED), default="demo")
    parser.add_argument("--side", type=int, default=1024, help="of patches, not demo's")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=KINDS, help="in this process")
    options = parser.parse_args()
    if options.only:
        print(json.dumps(predict(options.members, options.only, options.side)))
        return
    rounds = [
        {kind: measure(options.members, kind, options.side) for kind in KINDS}
        for _ in range(options.rounds)
    ]
    print("| kind | patches/s of one core | x before | mean probability |")
    print("|---|---|---|---|")
    for kind in KINDS:
        seconds = statistics.median(r[kind][0] for r in rounds)
        times = statistics.median(r[KINDS[0]][0] / r[kind][0] for r in rounds)
        mean = rounds[0][kind][1]
        print(f"| {kind} | {1 / seconds:.3g} | {times:.2f} | {mean:.6f} |")


if __name__ == "__main__":
    main()
