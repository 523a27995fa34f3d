"""The network all are given: of segmentation_models_pytorch, with its weights."""

import json
import sys
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import torch
from safetensors.torch import load_file


def read_task() -> dict[str, Any]:
    """What is to be done: the JSON file that is the only argument."""
    return dict(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))


class Posterior(torch.nn.Module):
    """Patches of uint8 [n, 3, P, P] to probabilities [n, 2, P, P]."""

    def __init__(self, task: dict[str, Any]) -> None:
        super().__init__()
        build = getattr(smp, task["architecture"])
        self.network = build(
            encoder_name=task["encoder"],
            encoder_weights=None,
            classes=2,
            **task["options"],
        )
        self.network.load_state_dict(load_file(task["weights"]))
        for name in ("mean", "std"):
            values = torch.tensor(task[name]).reshape(1, 3, 1, 1)
            self.register_buffer(name, values * 255)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        x = (patches.float() - self.mean) / self.std
        return torch.softmax(self.network(x), dim=1)
