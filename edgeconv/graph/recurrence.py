"""What ONNX's specification fixes of recurrent layers (operators RNN, GRU, LSTM)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Recurrent:
    """One of the operators.

    Attributes:
        gates: blocks of rows of the weights W and R: update, reset, new of a GRU; input, output, forget, cell of an
            LSTM.
        states: the hidden state, and of an LSTM its cell.
        activations: of one direction, by name in lower case, where the node states none.
    """

    gates: int
    states: int
    activations: tuple[str, ...]


RECURRENT: Mapping[str, Recurrent] = MappingProxyType(
    {
        "GRU": Recurrent(3, 1, ("sigmoid", "tanh")),
        "LSTM": Recurrent(4, 2, ("sigmoid", "tanh", "tanh")),
        "RNN": Recurrent(1, 1, ("tanh",)),
    }
)
DIRECTIONS: Mapping[str, int] = MappingProxyType({"forward": 1, "reverse": 1, "bidirectional": 2})
"""How many directions a layer has, by its attribute ``direction``."""
PARAMETERS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "affine": {"alpha": 1.0, "beta": 0.0},
        "elu": {"alpha": 1.0},
        "hardsigmoid": {"alpha": 0.2, "beta": 0.5},
        "leakyrelu": {"alpha": 0.01},
        "relu": {},
        "scaledtanh": {"alpha": 1.0, "beta": 1.0},
        "sigmoid": {},
        "softplus": {},
        "softsign": {},
        "tanh": {},
        "thresholdedrelu": {"alpha": 1.0},
    }
)
"""Every activation by its name in lower case, as runtimes do not heed case: its parameters, with their defaults."""


@dataclass(frozen=True)
class Activation:
    """An activation of a layer: its name in lower case, and its parameters by name (``alpha``, ``beta``)."""

    name: str
    parameters: Mapping[str, float]


def activations_of(
    op_type: str, direction: int, names: Sequence[str], alphas: Sequence[float], betas: Sequence[float]
) -> list[Activation]:
    """The activations of one direction of a layer, in the order of the specification.

    Args:
        op_type: GRU, LSTM or RNN.
        direction: 0, or 1 for the second one of a bidirectional layer.
        names: the node's ``activations``, of all directions; the operator's own where there are none.
        alphas: the node's ``activation_alpha``: a number for each activation that takes one, in their order, so that
            each takes the next; where the list ends, the defaults follow.
        betas: the node's ``activation_beta``, likewise.
    """
    usual = RECURRENT[op_type].activations
    remaining = {"alpha": iter(alphas), "beta": iter(betas)}
    activations = []
    for name in [name.lower() for name in names] or usual * 2:
        parameters = {key: next(remaining[key], default) for key, default in PARAMETERS.get(name, {}).items()}
        activations.append(Activation(name, parameters))
    return activations[direction * len(usual) : (direction + 1) * len(usual)]
