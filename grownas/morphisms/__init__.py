"""Morphisms: from a backbone to another, with a stated promise about the function (ALGORITHMS 3 to 5).

Each returns `(backbone, origins)`, leaves its input untouched, and draws random numbers only where it says so.
`origins` says where each parameter of the new backbone came from.

`nodes` adds nodes, `copies` makes one op two, `removal` takes ops away or puts others in their place.
"""

from grownas.morphisms.candidates import DRAWS, draw_missing, draw_uniform
from grownas.morphisms.copies import duplicate_op, split_op
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
    "blend_node",
    "draw_missing",
    "draw_uniform",
    "duplicate_op",
    "hold_constant",
    "is_carrier",
    "ops_for_node",
    "pass_on",
    "prune_op",
    "replace_op",
    "room_for",
    "set_share",
    "split_op",
    "with_carrier",
]
