"""Morphisms: changes of a backbone, each with a stated promise about its output.

Each morphism returns `(backbone, origins)`, leaves its input untouched, and draws random numbers only from its
`generator`. `origins` gives the source of each parameter of the new backbone.

`nodes` adds nodes, `copies` duplicates or splits ops, `removal` removes or replaces ops; `dags` does the same for DAGs
as far as it goes.
"""

from grownas.morphisms.candidates import DRAWS, draw_missing, draw_uniform
from grownas.morphisms.copies import duplicate_op, split_op
from grownas.morphisms.dags import blend_dag_node, can_prune_edge, prune_edge
from grownas.morphisms.nodes import add_node, add_noise, blend_node, ops_for_node, pass_on, set_share, with_carrier
from grownas.morphisms.origins import WHOLE, Morphed, Origins, Piece
from grownas.morphisms.parts import CARRIER, hold_constant, is_carrier
from grownas.morphisms.removal import prune_op, replace_op, room_for

__all__ = [
    "CARRIER",
    "DRAWS",
    "WHOLE",
    "Morphed",
    "Origins",
    "Piece",
    "add_node",
    "add_noise",
    "blend_dag_node",
    "blend_node",
    "can_prune_edge",
    "draw_missing",
    "draw_uniform",
    "duplicate_op",
    "hold_constant",
    "is_carrier",
    "ops_for_node",
    "pass_on",
    "prune_edge",
    "prune_op",
    "replace_op",
    "room_for",
    "set_share",
    "split_op",
    "with_carrier",
]
