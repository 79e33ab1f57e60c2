"""Exact rewrites of the graph: one per file, and the ordered table that is the optimizer.

A rewrite is a pass (`onnx_ir.passes.InPlacePass`) whose docstring states its contract: (1) what it requires, (2) what
it ensures, (3) why it is exact in real arithmetic. Its arithmetic is done in float64 and rounded once, to the dtype of
the weight, however many rewrites touch that weight on the way.

`open_batch` is not in the table: it makes the batch size of an optimized graph symbolic, where the user wants that.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial

import onnx_ir as ir

from edgeconv.capture.normalize.average_by_matrices import AverageByMatricesPass
from edgeconv.capture.normalize.fold_constants import FoldConstantsPass
from edgeconv.capture.normalize.remove_no_ops import RemoveNoOpsPass
from edgeconv.capture.normalize.split_sequences import SplitSequencesPass
from edgeconv.core import values
from edgeconv.errors import RewriteError, Wording
from edgeconv.graph.argument import checked_model
from edgeconv.graph.constants import take_exact
from edgeconv.rewrite.absorb_channel_moves import AbsorbChannelMovesPass
from edgeconv.rewrite.carry_through import CarryThroughPass
from edgeconv.rewrite.fold_ahead import FoldAheadPass
from edgeconv.rewrite.fold_batch_norm import FoldBatchNormPass
from edgeconv.rewrite.fold_into_scales import FoldIntoScalesPass
from edgeconv.rewrite.fold_padding import FoldPaddingPass
from edgeconv.rewrite.fold_scale_shift import FoldScaleShiftPass
from edgeconv.rewrite.keep_steps import KeepStepsPass
from edgeconv.rewrite.merge_branches import MergeBranchesPass
from edgeconv.rewrite.merge_chains import MergeChainsPass
from edgeconv.rewrite.merge_common import MergeCommonPass
from edgeconv.rewrite.merge_reshapes import MergeReshapesPass
from edgeconv.rewrite.multiply_matrices import MultiplyMatricesPass
from edgeconv.rewrite.pool_first import PoolFirstPass
from edgeconv.rewrite.recognize_activations import RecognizeActivationsPass
from edgeconv.rewrite.remove_no_ops import NO_OPS
from edgeconv.rewrite.remove_unused import RemoveUnusedPass
from edgeconv.rewrite.split_gemms import SplitGemmsPass
from edgeconv.rewrite.split_multipliers import SplitMultipliersPass

__all__ = ["REWRITES", "Rewrite", "optimize"]


@dataclass(frozen=True)
class Rewrite:
    """One line of the table.

    Attributes:
        name: what `optimize` and the command line call it.
        make: makes the pass; its docstring is the contract.
    """

    name: str
    make: Callable[[], ir.passes.InPlacePass]


# The order: constants first, as all others read them; then what leaves fewer operators; then what suits the kernels of
# the runtimes; clean-up last. `optimize` repeats the table until nothing changes.
REWRITES: tuple[Rewrite, ...] = (
    Rewrite("fold-constants", FoldConstantsPass),
    Rewrite("split-sequences", SplitSequencesPass),
    Rewrite("remove-no-ops", partial(RemoveNoOpsPass, NO_OPS)),
    Rewrite("split-gemms", SplitGemmsPass),
    Rewrite("multiply-matrices", MultiplyMatricesPass),
    Rewrite("recognize-activations", RecognizeActivationsPass),  # before fold-* take its + 3 and / 6 into a layer
    Rewrite("fold-batch-norm", FoldBatchNormPass),
    Rewrite("fold-scale-shift", FoldScaleShiftPass),
    Rewrite("fold-into-scales", FoldIntoScalesPass),
    Rewrite("merge-branches", MergeBranchesPass),
    Rewrite("pool-first", PoolFirstPass),
    Rewrite("merge-chains", MergeChainsPass),
    Rewrite("fold-ahead", FoldAheadPass),
    Rewrite("fold-padding", FoldPaddingPass),
    Rewrite("average-by-matrices", AverageByMatricesPass),
    Rewrite("absorb-channel-moves", AbsorbChannelMovesPass),
    Rewrite("split-multipliers", SplitMultipliersPass),
    Rewrite("carry-through", CarryThroughPass),
    Rewrite("keep-steps", KeepStepsPass),
    Rewrite("merge-reshapes", MergeReshapesPass),
    Rewrite("merge-common", MergeCommonPass),
    Rewrite("remove-unused", RemoveUnusedPass),
)


def optimize(model: ir.Model, *, skip: Collection[str] = (), keep_exact: bool = False) -> ir.Model:
    """Runs the table from top to bottom, again and again until nothing changes.

    Args:
        model: changed in place. NCHW; the float values that the rewrites touch have constant weights.
        skip: names of rewrites to leave out.
        keep_exact: whether constants remember what they were rounded from (twice what is folded weighs), for
            `edgeconv.graph.constants.unrounded_copy`.

    Returns:
        The same model. It computes the same function; graph inputs and outputs keep their names, and every value left
        that is named after a torch module still equals that module's output.

    Raises:
        RewriteError: ``skip`` names an unknown rewrite, or a rewrite found its contract broken.
    """
    checked_model(model, RewriteError)
    chosen = selected(skip)
    for _ in range(len(model.graph) + 2):  # a bound that only a bug can reach
        modified = [_run(rewrite, model) for rewrite in chosen]
        if not any(modified):
            if not keep_exact:
                take_exact(model)
            return model
    raise RewriteError("the rewrites undo one another and never settle", where="rewrite", hint="leave one out")


def _run(rewrite: Rewrite, model: ir.Model) -> bool:
    """Runs one line of the table with its contracts; returns whether it changed the graph."""
    try:
        return rewrite.make()(model).modified
    except (ir.passes.InvariantError, ir.passes.PassError) as error:
        cause = error.__cause__ or error  # onnx_ir wraps the error of a contract in one without its message
        where = f"rewrite {rewrite.name}"
        raise RewriteError(str(cause), where=where, hint=_without(rewrite.name)) from error


def _without(name: str) -> Wording:
    argument = f"leave it out with skip_rewrites=({name!r},)"
    return Wording(f"leave it out with --no-rewrite {name}", argument, argument)


def selected(skip: Collection[str], argument: str | Wording = "skip") -> list[Rewrite]:
    """The lines of the table without those named in `skip`.

    Raises:
        RewriteError: one is unknown; names `argument`, through which the caller gave it.
    """
    names = [rewrite.name for rewrite in REWRITES]
    left_out = values.names(skip, argument, RewriteError)
    for name in left_out:
        if name not in names:
            close = values.close_to(name, names, likeness=0.3)
            hint = f"did you mean {close[0]!r}?" if close else f"choose of {', '.join(names)}"
            raise RewriteError(f"there is no rewrite {name!r}", where=argument, hint=hint)
    return [rewrite for rewrite in REWRITES if rewrite.name not in left_out]
