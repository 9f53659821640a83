"""Saves a request for a fit in the store of a run, so that another process can do the fit.

A saved request holds plain values and tensors; what it does not hold, the process takes from the run's config and data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from grownas.genotype import Genotype
from grownas.protocols import FitRequest, Model, Problem, Task
from grownas.training.distil import Distilled, MeanOf
from grownas.training.recipe import OptimizerRecipe, Recipe


def to_tree(request: FitRequest) -> dict[str, Any]:
    """Return a request as a tree of tensors and plain values."""
    return {
        "key": request.key,
        "model": _of_model(request.model),
        "lesson": _of_teacher(request.task) if isinstance(request.task, Distilled) else None,
        "recipe": asdict(request.recipe),
        "seed": request.seed,
        "after": request.after,
        "extendable": request.extendable,
    }


def from_tree(tree: Mapping[str, Any], problem: Problem) -> FitRequest:
    """Return the request of a tree.

    Args:
        tree: of `to_tree`.
        problem: of the same run; it gives the data and builds the models, whose weights are in the tree.
    """
    given, lesson = dict(tree), tree["lesson"]
    del given["lesson"]
    given["model"] = _model(tree["model"], problem)
    given["task"] = problem.task if lesson is None else _taught(lesson, problem)
    parts = {name: OptimizerRecipe(**tree["recipe"][name]) for name in ("weights", "alpha")}
    given["recipe"] = Recipe(**{**tree["recipe"], **parts})
    return FitRequest(**given)


def _of_model(model: Model) -> dict[str, Any]:
    core: Any = model.core  # a supernet of a chain, or a derived cell
    weights = dict(model.state_dict())
    if hasattr(core, "op_names"):
        return {"ops": [core.op_names(node) for node in range(len(core.nodes))], "weights": weights}
    return {"genotype": core.genotype.to_dict(), "weights": weights}


def _model(tree: Mapping[str, Any], problem: Problem) -> Any:
    purpose = "request"  # seeds weights that are then replaced
    if "ops" in tree:
        model: Any = problem.build(tree["ops"], purpose)
    else:
        model = problem.build_cell(Genotype.from_dict(tree["genotype"]), purpose)
    model.load_state_dict(tree["weights"])
    return model


def _of_teacher(task: Distilled) -> dict[str, Any]:
    models = [] if task.teacher is None else task.teacher.models
    return {
        "part": task.part,
        "weight": task.weight,
        "temperature": task.temperature,
        "teachers": [_of_model(model) for model in models],
    }


def _taught(tree: Mapping[str, Any], problem: Problem) -> Task:
    given = dict(tree)
    models = [_model(one, problem) for one in given.pop("teachers")]
    task: Any = Distilled(problem.task, **given, teacher=MeanOf(models) if models else None)
    return task  # type: ignore[no-any-return]
