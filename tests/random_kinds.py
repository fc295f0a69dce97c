"""The table of blocks of random networks: what each kind reads, which sizes it may have, how it is built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from random_blocks import (
    Apply,
    Attention,
    ChannelsLast,
    Residual,
    Scale,
    SpatialGate,
    SqueezeExcite,
    cat_swapped,
    gate_halves,
    maxout,
    pad_channels,
    shuffle,
    sum_chunks,
    take_slice,
    to_image,
    to_tokens,
)
from torch import Tensor, nn
from torch.nn import functional as F

Shape = tuple[int, ...]  # (C, H, W) of an image, (L, E) of tokens
Sizes = tuple[int, ...]
WIDEST = 24


@dataclass(frozen=True)
class Kind:
    """What one kind of block needs and how it is made.

    Attributes:
        build: Makes the module from the first input's shape and the drawn sizes.
        sizes: The strategy of sizes for an input of this shape.
        fits: Whether an input of this shape will do.
        joins: For blocks of two inputs, whether the second goes with the first.
        weight: How often it is drawn, against 1 for a block that is only there to be nasty.
    """

    build: Callable[..., nn.Module]
    sizes: Callable[[Shape], st.SearchStrategy[Sizes]] = lambda shape: st.just(())
    fits: Callable[[Shape], bool] = lambda shape: True
    joins: Callable[[Shape, Shape], bool] | None = None
    weight: int = 1


def is_image(shape: Shape) -> bool:
    """Tell images from tokens."""
    return len(shape) == 3


def is_tokens(shape: Shape) -> bool:
    """Tell tokens from images."""
    return len(shape) == 2


def width_of(shape: Shape) -> int:
    """Return the number of channels."""
    return shape[0] if is_image(shape) else shape[1]


def dim_of(shape: Shape) -> int:
    """Return the dim of the channels in a batch."""
    return 1 if is_image(shape) else 2


def divisors(number: int, least: int = 1) -> st.SearchStrategy[int]:
    """Draw a divisor that is at least ``least``."""
    return st.sampled_from([n for n in range(least, number + 1) if number % n == 0])


def grouped_sizes(shape: Shape) -> st.SearchStrategy[Sizes]:
    """Draw groups and a multiple of them as output width."""
    return divisors(shape[0]).flatmap(
        lambda groups: st.tuples(st.just(groups), st.integers(1, max(1, 12 // groups)).map(lambda n: n * groups))
    )


def convolution(shape: Shape, groups: int, width: int, kernel: int, stride: int, bias: int) -> nn.Module:
    """Build a convolution that keeps the image's size at stride 1."""
    return nn.Conv2d(shape[0], width, kernel, stride, kernel // 2, groups=groups, bias=bool(bias))


def on_channels(function: Callable[..., Tensor]) -> Callable[..., nn.Module]:
    """Build a parameter-free block on the channel dim of images and tokens."""
    return lambda shape, *sizes: Apply(function, dim_of(shape), *sizes)


def slice_sizes(shape: Shape) -> st.SearchStrategy[Sizes]:
    """Draw start, stop and step that leave at least one channel."""
    width = width_of(shape)
    return st.integers(0, width - 1).flatmap(
        lambda start: st.tuples(st.just(start), st.integers(start + 1, width), st.integers(1, 3))
    )


def one(numbers: st.SearchStrategy[int]) -> st.SearchStrategy[Sizes]:
    """Wrap a number in a tuple."""
    return st.tuples(numbers)


ACTIVATIONS: tuple[Callable[[Tensor], Tensor], ...] = (torch.relu, torch.sigmoid, F.gelu, torch.cos, F.hardswish)
KINDS: dict[str, Kind] = {
    "conv": Kind(
        convolution,
        lambda s: st.tuples(grouped_sizes(s), st.sampled_from((1, 3)), st.integers(1, 2), st.integers(0, 1)).map(
            lambda drawn: (*drawn[0], *drawn[1:])
        ),
        is_image,
        weight=4,
    ),
    "transposed": Kind(
        lambda s, groups, width: nn.ConvTranspose2d(s[0], width, 2, groups=groups), grouped_sizes, is_image
    ),
    "depthwise": Kind(
        lambda s, multiplier: nn.Conv2d(s[0], s[0] * multiplier, 3, padding=1, groups=s[0]),
        lambda s: one(st.integers(1, WIDEST // s[0])),
        is_image,
    ),
    "linear": Kind(lambda s, width: nn.Linear(s[1], width), lambda s: one(st.integers(1, 12)), is_tokens, weight=3),
    "pixel_linear": Kind(
        lambda s, width: ChannelsLast(nn.Linear(s[0], width)), lambda s: one(st.integers(1, 12)), is_image
    ),
    "activation": Kind(
        lambda s, number: Apply(ACTIVATIONS[number]), lambda s: one(st.integers(0, len(ACTIVATIONS) - 1))
    ),
    "batch_norm": Kind(lambda s: nn.BatchNorm2d(s[0]), fits=is_image, weight=2),
    "instance_norm": Kind(
        lambda s, affine: nn.InstanceNorm2d(s[0], affine=bool(affine)),
        lambda s: one(st.integers(0, 1)),
        lambda s: is_image(s) and s[1] * s[2] > 1,
    ),
    "group_norm": Kind(lambda s, groups: nn.GroupNorm(groups, s[0]), lambda s: one(divisors(s[0])), is_image),
    "layer_norm": Kind(lambda s: ChannelsLast(nn.LayerNorm(s[0])) if is_image(s) else nn.LayerNorm(s[1])),
    "prelu": Kind(lambda s: nn.PReLU(s[0]), fits=is_image),
    "scale": Kind(lambda s: Scale(width_of(s), len(s) - 1 if is_image(s) else 0)),
    "residual": Kind(
        lambda s, inner: Residual(nn.Conv2d(s[0], inner, 3, padding=1), nn.Conv2d(inner, s[0], 1)),
        lambda s: one(st.integers(1, 8)),
        is_image,
        weight=2,
    ),
    "feed_forward": Kind(
        lambda s, inner: Residual(nn.Linear(s[1], inner), nn.Linear(inner, s[1])),
        lambda s: one(st.integers(1, 12)),
        is_tokens,
        weight=2,
    ),
    "attention": Kind(
        lambda s, heads, head_dim: Attention(s[1], heads, head_dim),
        lambda s: st.tuples(st.integers(1, 3), st.integers(1, 4)),
        is_tokens,
        weight=4,
    ),
    "add": Kind(lambda s: Apply(torch.add), joins=lambda s, other: s == other, weight=3),
    "multiply": Kind(lambda s: Apply(torch.mul), joins=lambda s, other: s == other),
    "cat": Kind(
        lambda s: Apply(lambda x, y, dim: torch.cat([x, y], dim), dim_of(s)),
        joins=lambda s, other: (
            len(s) == len(other)
            and (s[1:] == other[1:] if is_image(s) else s[0] == other[0])
            and width_of(s) + width_of(other) <= WIDEST
        ),
        weight=3,
    ),
    "swap_parts": Kind(
        lambda s, first: Apply(cat_swapped, dim_of(s), first, width_of(s) - first),
        lambda s: one(st.integers(1, width_of(s) - 1)),
        lambda s: width_of(s) > 1,
    ),
    "gate_halves": Kind(on_channels(gate_halves), fits=lambda s: width_of(s) % 2 == 0),
    "sum_chunks": Kind(
        on_channels(sum_chunks), lambda s: one(divisors(width_of(s), least=2)), lambda s: width_of(s) > 1
    ),
    "slice": Kind(on_channels(take_slice), slice_sizes),
    "flip": Kind(on_channels(lambda x, dim: x.flip(dim))),
    "roll": Kind(
        on_channels(lambda x, dim, shift: torch.roll(x, shift, dim)), lambda s: one(st.integers(1, width_of(s)))
    ),
    "shuffle": Kind(on_channels(shuffle), lambda s: one(divisors(width_of(s)))),
    "maxout": Kind(on_channels(maxout), lambda s: one(divisors(width_of(s)))),
    "pad_channels": Kind(
        on_channels(pad_channels),
        lambda s: st.tuples(st.integers(0, 2), st.integers(0, 2)),
        lambda s: width_of(s) + 4 <= WIDEST,
    ),
    "repeat": Kind(on_channels(lambda x, dim: torch.cat([x, x], dim)), fits=lambda s: width_of(s) * 2 <= WIDEST),
    "repeat_interleave": Kind(
        on_channels(lambda x, dim: x.repeat_interleave(2, dim)), fits=lambda s: width_of(s) * 2 <= WIDEST
    ),
    "max_pool": Kind(lambda s: nn.MaxPool2d(2), fits=lambda s: is_image(s) and s[1] > 1),
    "average_pool": Kind(lambda s: nn.AvgPool2d(2), fits=lambda s: is_image(s) and s[1] > 1),
    "pixel_shuffle": Kind(lambda s: nn.PixelShuffle(2), fits=lambda s: is_image(s) and s[0] % 4 == 0),
    "squeeze_excite": Kind(lambda s, inner: SqueezeExcite(s[0], inner), lambda s: one(st.integers(1, 4)), is_image),
    "spatial_gate": Kind(lambda s: SpatialGate(s[0]), fits=is_image),
    "to_tokens": Kind(lambda s: Apply(to_tokens), fits=is_image, weight=2),
    "to_image": Kind(
        lambda s: Apply(to_image, round(s[0] ** 0.5)), fits=lambda s: is_tokens(s) and round(s[0] ** 0.5) ** 2 == s[0]
    ),
}
