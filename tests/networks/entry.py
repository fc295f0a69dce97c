"""One row of the table of small test networks: what it holds, and how a family file writes it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Inputs = tuple[Tensor, ...] | dict[str, Tensor]
InputMaker = Callable[[], Inputs]
Builder = TypeVar("Builder", bound=Callable[..., nn.Module])


@dataclass(frozen=True)
class Network:
    """A small network with what every good pruning compiler must find in it.

    Attributes:
        name: Unique, snake_case.
        build: Makes the model; the caller seeds the generator.
        inputs: Makes example inputs, batch on dim 0: float32, or int64 for tokens.
        construct: The construct that it covers, one of ``CONSTRUCTS``.
        prunable: Parameters whose output axis (see ``output_dim``) is at least partly prunable.
        frozen: Parameters whose output axis stays whole: model outputs, axes that an op mixes.
        batch: Whether it takes other batch sizes than the example's.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: InputMaker
    construct: str
    prunable: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    batch: bool = True


@dataclass
class Family:
    """The networks of one file, in the order in which they are written."""

    networks: list[Network] = field(default_factory=list)

    def add(self, name: str, construct: str, build: Callable[[], nn.Module], inputs: InputMaker, **facts: Any) -> None:
        """Append one network; ``facts`` are the remaining fields of ``Network``."""
        self.networks.append(Network(name, build, inputs, construct, **facts))

    def network(self, construct: str, inputs: InputMaker, **facts: Any) -> Callable[[Builder], Builder]:
        """Register the class or function below under its own name in snake_case."""

        def register(builder: Builder) -> Builder:
            name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", builder.__name__).lower()
            self.add(name, construct, builder, inputs, **facts)
            return builder

        return register


def random_input(*shape: int, seed: int = 0) -> InputMaker:
    """Return a maker of one float32 tensor of this shape, batch first."""
    return lambda: (torch.randn(shape, generator=torch.Generator().manual_seed(seed)),)


def image(channels: int = 3, size: int = 8, batch: int = 2, seed: int = 0) -> InputMaker:
    """Return a maker of one batch of square images (N, C, size, size)."""
    return random_input(batch, channels, size, size, seed=seed)


def sequence(length: int = 6, width: int = 7, batch: int = 2, seed: int = 0) -> InputMaker:
    """Return a maker of one batch of sequences (N, L, E)."""
    return random_input(batch, length, width, seed=seed)


def features(width: int = 7, batch: int = 3, seed: int = 0) -> InputMaker:
    """Return a maker of one batch of feature vectors (N, width)."""
    return random_input(batch, width, seed=seed)


def tokens(length: int = 6, vocabulary: int = 17, batch: int = 2, seed: int = 0) -> InputMaker:
    """Return a maker of one batch of token ids (N, L), int64."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(vocabulary, (batch, length), generator=generator)
    return lambda: (ids.clone(),)


def joined(*makers: InputMaker) -> InputMaker:
    """Return a maker of the positional inputs of all makers, one after another."""
    return lambda: tuple(tensor for maker in makers for tensor in maker())


def named(**makers: InputMaker) -> InputMaker:
    """Return a maker of keyword inputs, one tensor a maker."""
    return lambda: {name: next(iter(maker())) for name, maker in makers.items()}  # type: ignore[arg-type]


def output_dim(model: nn.Module, name: str) -> int:
    """Return the dim of a parameter that holds its module's output channels.

    Embeddings (rows, width) and transposed convolutions (in, out / groups, ...) have it at 1, all else at 0.
    """
    owner = model.get_submodule(name.rpartition(".")[0])
    transposed = (nn.Embedding, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    return int(isinstance(owner, transposed) and name.endswith("weight"))


def rebatched(inputs: Inputs, batch: int) -> Inputs:
    """Return inputs of another batch size; the examples that repeat are made different from the first ones."""
    if isinstance(inputs, dict):
        return {name: _rebatched(tensor, batch) for name, tensor in inputs.items()}
    return tuple(_rebatched(tensor, batch) for tensor in inputs)


def _rebatched(tensor: Tensor, batch: int) -> Tensor:
    picked = tensor[torch.arange(batch) % tensor.shape[0]]
    if not picked.is_floating_point():
        return picked
    scale = torch.linspace(0.6, 1.4, batch, dtype=picked.dtype)
    return picked * scale.view(-1, *[1] * (picked.dim() - 1))
