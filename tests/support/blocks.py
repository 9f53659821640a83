"""Networks of blocks for tests."""

from __future__ import annotations

from grownas.blocks_genotype import BlockEdge, BlockNode, BlocksGenotype

SMALL = BlocksGenotype(
    (
        BlockNode((BlockEdge(0, "fir(3)"), BlockEdge(1, "fir(2)-polynomial(5)-fir(4)"))),
        BlockNode((BlockEdge(1, "delay(2)"), BlockEdge(2, "polynomial_all(4)"))),
    ),
    cells=2,
)
