"""The mode of a module as a number that a graph computes with."""

from __future__ import annotations

from torch import fx, nn


class Mode(nn.Module):
    """Whether it is in training mode: a call of it follows ``.train()`` and ``.eval()``, also after pickling.

    Example:
        >>> Mode().eval()()
        False
    """

    def forward(self) -> bool:
        """The flag itself."""
        return self.training


def mode_of(node: fx.Node) -> str | None:
    """The path of the module whose ``training`` a node reads, or None for any other node."""
    path, _, name = str(node.target).rpartition(".")
    return path if node.op == "get_attr" and name == "training" else None
