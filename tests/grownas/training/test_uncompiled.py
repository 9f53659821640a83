"""Optimisers without PyTorch's compiler, in processes that have not imported it."""

from __future__ import annotations

import subprocess
import sys

FIT = """
import sys, torch
from grownas.backbones.chain import Backbone
from grownas.tasks.index_returns.options import Options
from grownas.tasks.index_returns.task import IndexReturns
from grownas.training.loop import fit
from grownas.training.recipe import Recipe
from grownas.training.uncompiled import optimizers_uncompiled

task = IndexReturns.load(Options(data="planted")).with_loss("squared")
model = task.model(Backbone(task.input_size, 4, 1, generator=torch.Generator().manual_seed(1)))
with optimizers_uncompiled():
    done = fit(model, task, Recipe(epochs=2), seed=1)
    kept = [optimizer.state_dict() for optimizer in done.optimizers]
assert done.steps > 0 and kept[0]["state"]
assert "torch._dynamo" not in sys.modules
again = torch.optim.AdamW(done.model.parameters(), fused=True)
assert "torch._dynamo" in sys.modules
again.state_dict()
"""


def test_a_fit_imports_no_compiler_and_later_optimizers_are_pytorchs():
    subprocess.run([sys.executable, "-c", FIT], check=True)
