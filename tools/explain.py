"""Explain why channels go together: the chain of ties from one channel to everything that goes with it.

    python tools/explain.py torchvision:resnet18 layer1.0.conv1:3
    python tools/explain.py torchvision:resnet18 fc
    python tools/explain.py torchvision:resnet18 conv1.weight --dim 1

A member is a channel group, a module or a parameter; behind a colon one channel of it, all of them without.
For a frozen axis the reason is told, and the chain that leads there.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from fxprune.analysis import analyse
from fxprune.arguments import load_model, parse_input
from fxprune.explain import explain_axis
from fxprune_passes.errors import FxPruneError
from fxprune_passes.groups import ChannelGroups


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the explanation of one channel or axis."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", metavar="SPEC", help="torchvision:NAME or MODULE:CALLABLE")
    parser.add_argument("member", metavar="MEMBER[:CHANNEL]", help="channel group, module or parameter, and a channel")
    parser.add_argument("--dim", type=int, help="which axis of a parameter (default: the one that it writes)")
    parser.add_argument("--input", action="append", metavar="SHAPE", help="1,3,224,224 (default) or 1,16:int64")
    options = parser.parse_args(arguments)
    try:
        inputs = tuple(map(parse_input, options.input or ["1,3,224,224"]))
        analysis = analyse(load_model(options.model).eval(), inputs)
        member, channel = split_member(analysis.groups, options.member)
        print(explain_axis(analysis, member, channel, dim=options.dim))
    except FxPruneError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


def split_member(groups: ChannelGroups, text: str) -> tuple[str, int | None]:
    """Cut a channel off behind the last colon; the name of a group may hold one itself."""
    name, _, channel = text.rpartition(":")
    if text in groups.names.values() or not channel.isdecimal() or not name:
        return text, None
    return name, int(channel)


if __name__ == "__main__":
    sys.exit(main())
