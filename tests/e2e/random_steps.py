"""The table of the steps of a random graph, and how often each is tried."""

from __future__ import annotations

import random_moves
import random_operators
from random_operators import Step

STEPS: dict[str, Step] = {
    "unary": random_operators.unary,
    "guarded": random_operators.guarded,
    "binary": random_operators.binary,
    "variadic": random_operators.variadic,
    "slope": random_operators.slope,
    "bounded": random_operators.bounded,
    "compared": random_operators.compared,
    "logic": random_operators.logic,
    "cast": random_operators.cast,
    "integers": random_operators.integers,
    "conv": random_operators.conv,
    "conv_transposed": random_operators.conv_transposed,
    "pool": random_operators.pool,
    "norm": random_operators.norm,
    "reduce": random_operators.reduce,
    "matrices": random_operators.matrices,
    "reshape": random_moves.reshape,
    "moved": random_moves.moved,
    "join": random_moves.join,
    "split": random_moves.split,
    "slice": random_moves.sliced,
    "pad": random_moves.pad,
    "indexed": random_moves.indexed,
    "ranked": random_moves.ranked,
    "resize": random_moves.resize,
    "grid": random_moves.grid,
    "dropout": random_moves.dropout,
    "recurrent": random_moves.recurrent,
    "attention": random_moves.attention,
    "einsum": random_moves.einsum,
    "shape_of": random_moves.shape_of,
    "branch": random_moves.branch,
    "function": random_moves.function,
}
_SHARES = {
    "unary": 8,
    "conv": 10,
    "binary": 5,
    "pool": 4,
    "moved": 3,
    "reshape": 3,
    "join": 3,
    "norm": 3,
    "matrices": 3,
    "reduce": 3,
    "resize": 3,
    "slice": 2,
    "pad": 2,
    "conv_transposed": 2,
    "indexed": 2,
    "compared": 2,
    "guarded": 2,
}
_TOTAL = sum(_SHARES.get(name, 1) for name in STEPS)
WEIGHTS = [_SHARES.get(name, 1) / _TOTAL for name in STEPS]
