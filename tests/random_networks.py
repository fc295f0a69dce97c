"""Random small networks for property tests: a description that hypothesis draws, and the module built from it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from networks import randomize
from random_kinds import KINDS, Shape, Sizes, is_image, width_of
from torch import Tensor, nn

CLASSES = 3
HEADS = ("mean", "flatten")


@dataclass(frozen=True)
class Block:
    """One step of a network.

    Attributes:
        kind: A key of ``KINDS``, or ``again`` for the module of an earlier block on another tensor.
        reads: Which tensors it takes, counted back: 1 is the latest.
        sizes: What its kind's builder takes after the shape; for ``again`` the number of the block.
    """

    kind: str
    reads: tuple[int, ...] = (1,)
    sizes: Sizes = ()


@dataclass(frozen=True)
class Head:
    """One output: a linear layer over the mean of all pixels or tokens, or over everything flattened."""

    kind: str = "mean"
    reads: int = 1


@dataclass(frozen=True)
class Description:
    """A network as data; its repr builds it again.

    Attributes:
        input_shape: (C, H, W) of one example.
        blocks: Its steps in order.
        heads: Its outputs.
        seed: What fills its parameters and buffers.
    """

    input_shape: Shape
    blocks: tuple[Block, ...]
    heads: tuple[Head, ...] = (Head(),)
    seed: int = 0


def build_block(block: Block, shape: Shape) -> nn.Module:
    """Build the module of one block for its first input's shape."""
    return KINDS[block.kind].build(shape, *block.sizes)


def output_shape(module: nn.Module, shapes: list[Shape]) -> Shape:
    """Return the shape, without the batch, of what a module makes of inputs of these shapes."""
    with torch.no_grad():
        return tuple(module.eval()(*(torch.zeros(1, *shape) for shape in shapes)).shape[1:])


class Draft:
    """A network while it is drawn: its blocks, and the shapes and modules that say what fits next."""

    def __init__(self, input_shape: Shape) -> None:
        self.shapes, self.blocks = [input_shape], list[Block]()
        self.reads, self.modules = list[list[Shape]](), list[nn.Module]()

    def append(self, block: Block) -> None:
        """Add a block behind the others."""
        inputs = [self.shapes[-back] for back in block.reads]
        module = self.modules[block.sizes[0]] if block.kind == "again" else build_block(block, inputs[0])
        self.blocks.append(block)
        self.reads.append(inputs)
        self.modules.append(module)
        self.shapes.append(output_shape(module, inputs))

    def repeatable(self, shape: Shape) -> list[int]:
        """Return the blocks that could also run on another tensor of this shape."""
        return [n for n, block in enumerate(self.blocks) if self.reads[n] == [shape] and block.kind != "again"]

    def partners(self, kind: str, shape: Shape) -> list[int]:
        """Return how far back the tensors lie that this kind of block joins to one of this shape."""
        joins = KINDS[kind].joins
        return [
            back + 1 for back, other in enumerate(reversed(self.shapes)) if joins is not None and joins(shape, other)
        ]

    def kinds(self, shape: Shape) -> list[str]:
        """Return the kinds of blocks that can read a tensor of this shape, as often as they shall be drawn."""
        names = [name for name, kind in KINDS.items() if kind.fits(shape)]
        names = [name for name in names if KINDS[name].joins is None or self.partners(name, shape)]
        return [name for name in names for _ in range(KINDS[name].weight)] + ["again"] * bool(self.repeatable(shape))


class Output(nn.Module):
    """A linear layer over what the head's kind makes of a tensor."""

    def __init__(self, kind: str, shape: Shape) -> None:
        super().__init__()
        self.flat = kind == "flatten"
        self.dims = (2, 3) if is_image(shape) else (1,)
        self.linear = nn.Linear(torch.Size(shape).numel() if self.flat else width_of(shape), CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1) if self.flat else x.mean(self.dims))


class RandomNetwork(nn.Module):
    """The network of a description: every block reads earlier tensors, heads read the last ones."""

    def __init__(self, description: Description) -> None:
        super().__init__()
        self.description = description
        draft = Draft(description.input_shape)
        for block in description.blocks:
            draft.append(block)
        self.blocks = nn.ModuleList(draft.modules)
        self.heads = nn.ModuleList(Output(head.kind, draft.shapes[-head.reads]) for head in description.heads)
        randomize(self, description.seed)
        self.eval()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        tensors = [x]
        for block, module in zip(self.description.blocks, self.blocks, strict=True):
            tensors.append(module(*(tensors[-back] for back in block.reads)))
        heads = zip(self.description.heads, self.heads, strict=True)
        return tuple(module(tensors[-head.reads]) for head, module in heads)

    def example_inputs(self, batch: int = 2) -> tuple[Tensor, ...]:
        """Return a batch of inputs, the same for the same seed."""
        generator = torch.Generator().manual_seed(self.description.seed)
        return (torch.randn(batch, *self.description.input_shape, generator=generator),)


@st.composite
def blocks_after(draw: st.DrawFn, draft: Draft) -> Block:
    """Draw a block that fits behind what there is."""
    back = draw(st.sampled_from([back for back in (1, 1, 1, 2, 3) if back <= len(draft.shapes)]))
    shape = draft.shapes[-back]
    name = draw(st.sampled_from(draft.kinds(shape)))
    if name == "again":
        return Block(name, (back,), (draw(st.sampled_from(draft.repeatable(shape))),))
    kind = KINDS[name]
    reads = (back,) if kind.joins is None else (back, draw(st.sampled_from(draft.partners(name, shape))))
    return Block(name, reads, draw(kind.sizes(shape)))


@st.composite
def networks(draw: st.DrawFn, max_blocks: int = 8) -> Description:
    """Draw a network of 2 to ``max_blocks`` blocks on images of 4 to 8 pixels or on 4 to 6 tokens.

    The first block is always a convolution or a linear layer, so that there are channels to prune.
    """
    width = st.integers(4, 12)
    if draw(st.booleans()):
        draft = Draft((draw(st.sampled_from((4, 6))), draw(st.integers(3, 5))))
        draft.append(Block("linear", (1,), (draw(width),)))
    else:
        side = draw(st.sampled_from((4, 6, 8)))
        draft = Draft((draw(st.integers(2, 4)), side, side))
        draft.append(Block("conv", (1,), (1, draw(width), 3, 1, 1)))
    for _ in range(draw(st.integers(1, max_blocks - 1))):
        draft.append(draw(blocks_after(draft)))
    heads = st.builds(Head, st.sampled_from(HEADS), st.integers(1, min(3, len(draft.blocks))))
    drawn = tuple(draw(st.lists(heads, min_size=1, max_size=2)))
    return Description(draft.shapes[0], tuple(draft.blocks), drawn, draw(st.integers(0, 2**16)))
