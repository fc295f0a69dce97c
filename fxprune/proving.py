"""Plans that rely on a rule which was inferred by running an op are verified by numbers before anything is returned."""

from __future__ import annotations

from torch import fx

from fxprune.coded import addresses, draw
from fxprune.inputs import as_call, bind
from fxprune.notes import listed
from fxprune.trial import Trial
from fxprune_passes.errors import CaptureError, VerifyError, explain
from fxprune_passes.kept import Kept
from fxprune_passes.propagation import Propagation, flat_axes
from fxprune_passes.tensors import tensors_of
from fxprune_passes.wide import NodeError

_TOLERANCE = 1e-9


def prove_inferred(trial: Trial) -> None:
    """Compare numbers, on the model's own weights and on coded ones, if some inferred rule carries pruned channels.

    Raises:
        VerifyError: They differ, or could not be computed.
    """
    propagation = trial.analysis.propagation
    used = [node for node in propagation.inferred if _is_pruned(node, propagation, trial.kept)]
    if not used:
        return
    names, at = listed([propagation.inferred[node].op for node in used]), str(used[0].meta.get("source", ""))
    mend = f"leave out the channels of {used[0].name}, or register a rule for {names}: fxprune.rule"
    if any(tensor.is_meta for tensor in tensors_of(trial.model).values()):
        first = f"rules inferred by running {names} could not be verified on meta tensors."
        raise VerifyError(explain(first, at=at, mend='model.to_empty(device="cpu"), then load its weights'))
    if trial.analysis.capture.fake_mode is None:
        first = f"rules inferred by running {names} could not be verified on a graph of one example's values."
        raise VerifyError(explain(first, at=at, mend=mend))
    bound = bind(trial.model, *as_call(draw(trial.plan.inputs, trial.seed)))
    for units in (None,) if trial.facts is not None else (None, addresses):
        try:
            error = trial.error(units, bound)
        except (CaptureError, NodeError) as failure:
            first = f"rules inferred by running {names} could not be verified: {failure}".partition("\n")[0]
            raise VerifyError(explain(first, at=at, mend=mend)) from failure
        if not error <= _TOLERANCE:
            first = f"rules inferred by running {names} do not hold: relative error {error:.1e}, expected {_TOLERANCE}."
            raise VerifyError(explain(first, at=at, mend=mend))


def _is_pruned(node: fx.Node, propagation: Propagation, kept: Kept) -> bool:
    """Whether a tensor that a node reads or gives loses channels."""
    trees = [propagation.axes[one] for one in (node, *node.all_input_nodes)]
    return any(kept.changes(axes) for tree in trees for axes in flat_axes(tree))
