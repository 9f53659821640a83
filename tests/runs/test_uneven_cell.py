"""A cell with uneven nodes and repeated ops, as duplicating and splitting make them, through a whole run."""

from __future__ import annotations

import torch

from grownas import morphisms
from grownas.backbones.chain import Backbone
from grownas.genotype import Genotype


def test_it_is_trained_scored_drawn_and_reloaded(runner, call, evaluates_to_summary, read_json, tmp_path):
    generator = torch.Generator().manual_seed(0)
    core = Backbone(3, 4, 2, [("add", "tanh"), ("add", "identity"), ("hadamard", "sigmoid")], share_projection=True)
    for node, op in ((0, 0), (0, 2), (0, 4), (1, 1)):
        core = morphisms.duplicate_op(core, node, op).backbone
    core = morphisms.prune_op(core, 1, 2).backbone
    core = morphisms.add_node(core, 1, ops=[("hadamard", "relu")], generator=generator).backbone
    path = tmp_path / "genotype.json"
    core.genotype(None).save(path)
    ended = call("train", *runner.options("name=uneven", f"genotype={path}"))
    assert ended.code == 0, ended.err
    folder = runner.folder / "uneven"
    summary = read_json(folder / "summary.json")
    assert (summary["nodes"], summary["ops"]) == (3, 6 + 2 + 3)
    assert Genotype.load(folder / "genotype.json") == Genotype.load(path)
    assert (folder / "report.html").read_text("utf-8").count('class="gc-bar') == 11
    evaluates_to_summary(folder)
    shown = call("show", folder)
    assert shown.out.startswith("3 node(s), 11 op(s)")
    assert call("predict", folder).code == 0
    assert (folder / "forecasts.csv").exists()
