"""Ops without a rule: what running them shows is stated, marked and verified; everything else is frozen."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import einops
import pytest
import torch
from einops.layers.torch import Rearrange, Reduce
from support import assert_exact, random_plan
from torch import Tensor, nn
from torch.autograd import Function

import fxprune
from fxprune_passes.probe import Like, probe, tensors_of

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


def like(*shape: int, dtype: torch.dtype = torch.float32, values: Tensor | None = None) -> Like:
    return Like(shape, dtype, values)


@dataclass(frozen=True)
class Row:
    """A function, the shapes of its inputs, and what they share: the same letter in inputs and outputs."""

    name: str
    run: Callable[..., Any]
    inputs: tuple[Like, ...]
    alike: str


PLACES = like(3, dtype=torch.int64, values=torch.tensor([5, 2, 2]))
ROWS = (
    Row("with f(0) = 1", lambda x: x.tanh() + 1, (like(2, 8),), "nc -> nc"),
    Row("relu, mostly zero", lambda x: (x - 1).relu(), (like(2, 8),), "nc -> nc"),
    Row("not a number for half of the inputs", lambda x: x.log(), (like(2, 8),), "nc -> nc"),
    Row("broadcast", lambda x, w: x * w * 2, (like(2, 8, 3, 5), like(8, 1, 1)), "nchw c.. -> nchw"),
    Row("axes of width 1", lambda x: x + 1, (like(2, 1, 5),), "n.w -> n.w"),
    Row("softmax", lambda x: x.softmax(1), (like(2, 8, 3),), "n.w -> n.w"),
    Row("norm", lambda x: x / x.norm(dim=1, keepdim=True), (like(2, 8, 3),), "n.w -> n.w"),
    Row("depends on the place", lambda x: x + torch.arange(x.shape[1]), (like(2, 8),), "n. -> n."),
    Row("depends on the size", lambda x: x / x.shape[1], (like(2, 8),), "n. -> n."),
    Row("cumsum", lambda x: x.cumsum(1), (like(2, 8),), "n. -> n."),
    Row("sort", lambda x: x.sort(1)[0], (like(2, 8),), "n. -> n."),
    Row("literal size", lambda x: x.view(-1, 8) * 2, (like(2, 8),), "n. -> n."),
    Row("transposed, two outputs", lambda x: (x + 1, x.T * 2), (like(3, 8),), "nc -> nc cn"),
    Row("contraction", lambda x, w: x @ w.T, (like(3, 8), like(6, 8)), "n. o. -> no"),
    Row("batched product", lambda a, b: a @ b, (like(2, 3, 5), like(2, 5, 4)), "bi. b.j -> bij"),
    Row("an output axis of its own", lambda x: x.unsqueeze(1).repeat(1, 8, 1), (like(2, 8),), "nc -> n.c"),
    Row("both axes at once", lambda x: x * torch.eye(4), (like(4, 4),), ".. -> .."),
    Row("complex", lambda x: torch.fft.fft(x, dim=2), (like(2, 8, 6),), "nc. -> nc."),
    Row("index vector", lambda x, i: x.index_select(1, i), (like(2, 8), PLACES), "n. . -> n."),
    Row("lookup", lambda w, i: w[i] * 2, (like(9, 8), like(2, 3, dtype=torch.int64)), ".e nl -> nle"),
    Row("one dtype alone", lambda x: x.tanh() if x.dtype == torch.float32 else 1 / 0, (like(2, 8),), "nc -> nc"),
    Row("half precision", lambda x: x * 2, (like(2, 8, dtype=torch.float16),), "nc -> nc"),
    Row("booleans", lambda x: ~x, (like(2, 8, dtype=torch.bool),), "nc -> nc"),
)


def found(run: Callable[..., Any], inputs: tuple[Like, ...]) -> Any:
    made = [torch.zeros(one.shape, dtype=one.dtype) if one.values is None else one.values for one in inputs]
    shapes = [tuple(one.shape) for one in tensors_of(run(*made))]
    return probe(lambda tensors: tensors_of(run(*tensors)), inputs, shapes)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_axes_that_go_together(row: Row) -> None:
    sides = [side.split() for side in row.alike.split(" -> ")]
    result = found(row.run, row.inputs)
    assert result is not None
    shown = [
        {word[dim] for (number, dim) in axes for word in [words[number]]}
        for one in result.alike
        for axes, words in ((one.inputs, sides[0]), (one.outputs, sides[1]))
    ]
    assert all(len(letters) == 1 and letters != {"."} for letters in shown), result
    stated = [sum(word.count(letter) for letter in set(word) - {"."}) for side in sides for word in side]
    assert sum(stated) == sum(len(one.inputs) + len(one.outputs) for one in result.alike), result


@pytest.mark.parametrize(
    ("run", "order", "index"),
    [
        (lambda x: x.flip(1).T.contiguous(), (1, 0), ((7, 6, 5, 4, 3, 2, 1, 0), (0, 1))),
        (lambda x: x.roll(3, 1), (0, 1), ((0, 1), (5, 6, 7, 0, 1, 2, 3, 4))),
        (lambda x: torch.cat(x.chunk(2, 1)[::-1], 1), (0, 1), ((0, 1), (4, 5, 6, 7, 0, 1, 2, 3))),
        (lambda x: x[:, ::3].contiguous(), (0, 1), ((0, 1), (0, 3, 6))),
        (lambda x: x.repeat_interleave(2, 1), (0, 1), ((0, 1), (0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7))),
    ],
)
def test_data_movement(run: Callable[[Tensor], Tensor], order: Any, index: Any) -> None:
    moved = found(run, (like(2, 8),)).moved
    assert (moved.order, moved.index) == (order, index)


@pytest.mark.parametrize(
    "run",
    [
        lambda x: x.abs().flip(1),  # moves positive numbers, and unique ones are
        lambda x: x.sort(1)[0],
        lambda x: x.softmax(1),
        lambda x: x.flatten().roll(3).view(2, 8),
        lambda x: x.roll(1, 1) + 1,
    ],
)
def test_what_only_looks_like_movement(run: Callable[[Tensor], Tensor]) -> None:
    assert found(run, (like(2, 8),)).moved is None


@pytest.mark.parametrize(
    ("run", "inputs"),
    [
        (lambda x: x * torch.rand(()), (like(2, 8),)),
        (lambda x: x.mul_(2), (like(2, 8),)),
        (lambda x: x * 2, (like(1 << 11, 1 << 11),)),
        (lambda x: (time.sleep(0.6), x * 2)[1], (like(2, 8),)),
    ],
    ids=["random", "in place", "large", "slow"],
)
def test_nothing_is_concluded(run: Callable[[Tensor], Tensor], inputs: tuple[Like, ...]) -> None:
    assert found(run, inputs) is None


def test_probing_leaves_the_random_state_as_it_is() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert found(lambda x: x * 2, (like(2, 8),)).alike
    assert torch.equal(torch.get_rng_state(), before)


@torch.library.custom_op("fxprune_tests::activate", mutates_args=())
def activate(x: Tensor) -> Tensor:
    return x.tanh() + 1


@torch.library.custom_op("fxprune_tests::rescale", mutates_args=())
def rescale(x: Tensor, weight: Tensor, factor: float) -> Tensor:
    return x * weight * factor


@torch.library.custom_op("fxprune_tests::shift", mutates_args=())
def shift(x: Tensor, by: int) -> Tensor:
    return x.roll(by, 1).clone()


@torch.library.custom_op("fxprune_tests::attend", mutates_args=())
def attend(x: Tensor) -> Tensor:
    return x.softmax(1) * x


@torch.library.custom_op("fxprune_tests::turn", mutates_args=())
def turn(x: Tensor) -> Tensor:
    return x.flip(1).T.contiguous()


@torch.library.custom_op("fxprune_tests::noisy", mutates_args=())
def noisy(x: Tensor) -> Tensor:
    return x + torch.rand(())


@torch.library.custom_op("fxprune_tests::grow", mutates_args=("x",))
def grow(x: Tensor) -> None:
    x.mul_(2)


MIXING = [False]


@torch.library.custom_op("fxprune_tests::fickle", mutates_args=())
def fickle(x: Tensor) -> Tensor:
    return x + x.mean(1, keepdim=True) if MIXING[0] else x * 2


for _op in (activate, attend, noisy, fickle):
    _op.register_fake(torch.empty_like)
rescale.register_fake(lambda x, weight, factor: torch.empty_like(x))
shift.register_fake(lambda x, by: torch.empty_like(x))
turn.register_fake(lambda x: x.new_empty(x.shape[1], x.shape[0]))


class Rounded(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (4 * x).round() / 4

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class Sized(Function):
    """Holds a literal size, which no graph can mend."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view(-1, 2, 4).flatten(1) * 2


class Body(nn.Module):
    """Two layers around the op that a test chooses."""

    def __init__(self, run: Callable[[Body, Tensor], Tensor], *, recorded: bool = False) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)
        self.scale = nn.Parameter(torch.rand(8) + 0.5)
        self.run, self.recorded = run, recorded

    def forward(self, x: Tensor) -> Tensor:
        if self.recorded and x.shape[1] == 0:  # symbolic tracing stops here
            return x
        return self.last(self.run(self, self.first(x)))


INFERRED: dict[str, Callable[[Body, Tensor], Tensor]] = {
    "activate": lambda body, x: activate(x),
    "activate, called as a packet": lambda body, x: torch.ops.fxprune_tests.activate(x),
    "rescale": lambda body, x: rescale(x, body.scale, 0.5),
    "shift": lambda body, x: shift(x, 3),
    "turn": lambda body, x: turn(x).T,
    "rounded": lambda body, x: Rounded.apply(x),
}


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("name", INFERRED)
def test_inferred_rules_prune_exactly_and_are_marked(name: str, recorded: bool) -> None:
    model = Body(INFERRED[name], recorded=recorded).eval()
    groups = fxprune.analyze(model, X)
    assert [group.name for group in groups] == ["first"]
    for keep in ([0], [1, 3, 7], list(range(7))):
        plan = fxprune.Plan.from_keep(model, X, {"first": keep})
        small = fxprune.compile(model, plan)
        assert_exact(model, plan, small, X, batch_sizes=(1, 5))
        assert len([node for node in small.graph.nodes if "inferred" in node.meta]) == 1
    (note,) = (note for note in groups.notes if note.startswith("rule inferred by running "))
    assert "test_probe.py:" in note
    assert note in str(groups)
    assert note in str(plan)
    assert note in str(fxprune.verify(model, plan, small))
    assert note in small.meta["fxprune"]["notes"]


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize(
    "run",
    [
        lambda body, x: attend(x),
        lambda body, x: noisy(x),
        lambda body, x: Sized.apply(x),
        lambda body, x: (y := x * 1, grow(y), y)[2],
    ],
    ids=["mixes channels", "random", "literal size", "in place"],
)
def test_other_ops_are_frozen_with_a_reason(run: Callable[[Body, Tensor], Tensor], recorded: bool) -> None:
    groups = fxprune.analyze(Body(run, recorded=recorded).eval(), X)
    assert list(groups) == []
    assert not [note for note in groups.notes if "inferred" in note]
    assert any(
        axis.parameter == "first.weight" and axis.dim == 0 and ("no rule" in axis.reason or "of its own" in axis.reason)
        for axis in groups.frozen
    )


@pytest.fixture
def mixing() -> Iterator[list[bool]]:
    yield MIXING
    MIXING[0] = False


def test_a_rule_that_does_not_hold_any_more_is_not_compiled(mixing: list[bool]) -> None:
    model = Body(lambda body, x: fickle(x)).eval()
    plan = fxprune.plan(model, X, channels=0.5)
    fxprune.compile(model, plan)
    mixing[0] = True
    with pytest.raises(fxprune.VerifyError, match=r"rules inferred by running \S+fickle\.default do not hold"):
        fxprune.compile(model, plan)
    fxprune.compile(model, fxprune.Plan.from_keep(model, X, {}))  # uses no inferred rule


def test_a_rule_that_cannot_be_verified_is_not_compiled() -> None:
    with torch.device("meta"):
        model = Body(lambda body, x: activate(x)).eval()
    plan = fxprune.plan(model, X.to("meta"), channels=0.5, criterion="random")
    with pytest.raises(fxprune.VerifyError, match="could not be verified"):
        fxprune.compile(model, plan)


EINOPS: dict[str, tuple[Callable[[Body, Tensor], Tensor], list[str]]] = {
    "rearrange": (lambda body, x: einops.rearrange(x, "b (h d) -> b (d h)", h=2), ["first:0", "first:1"]),
    "to heads": (lambda body, x: einops.rearrange(x, "b (h d) -> b h d", h=2).flatten(1), ["first:0", "first:1"]),
    "layer": (lambda body, x: Rearrange("b (h d) -> b d h", h=2)(x).flatten(1), ["first:0", "first:1"]),
    "repeat": (lambda body, x: einops.repeat(x, "b c -> b c w", w=3).mean(2), ["first"]),
    "reduce": (lambda body, x: einops.reduce(x[..., None].expand(-1, -1, 5), "b c w -> b c", "mean"), ["first"]),
    "reduce layer": (lambda body, x: Reduce("b c w -> b c", "sum")(torch.stack([x, x], 2)), ["first"]),
    "einsum": (lambda body, x: einops.einsum(x, body.scale, "b c, c -> b c"), ["first"]),
    "pack": (lambda body, x: einops.pack([x, x * 2], "b *")[0].view(-1, 2, 8).sum(1), ["first"]),
}


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("name", EINOPS)
def test_einops_is_traced_into(name: str, recorded: bool) -> None:
    run, groups = EINOPS[name]
    model = Body(run, recorded=recorded).eval()
    for _ in range(2):  # einops remembers shapes that it has seen
        assert [group.name for group in fxprune.analyze(model, X)] == groups
        plan = random_plan(model, X, fraction=0.5)
        assert_exact(model, plan, fxprune.compile(model, plan), X, batch_sizes=(5,))


@pytest.mark.parametrize("name", ["activate", "rescale", "rounded"])
def test_inferred_rules_prune_modules_whose_code_stays(name: str) -> None:
    model = Body(INFERRED[name]).eval()
    plan = fxprune.plan(model, X, channels=0.5, emit="module")
    assert list(plan.keep) == ["first"]
    small = fxprune.compile(model, plan)
    assert type(small) is Body
    report = fxprune.verify(model, plan, small)
    assert report.ok, str(report)


def test_code_that_moves_channels_stays_whole_where_code_stays() -> None:
    model = Body(INFERRED["shift"]).eval()
    assert fxprune.plan(model, X, channels=0.5, emit="module").keep == {}


def test_a_module_is_not_compiled_by_a_rule_that_does_not_hold_any_more(mixing: list[bool]) -> None:
    model = Body(lambda body, x: fickle(x)).eval()
    plan = fxprune.plan(model, X, channels=0.5, emit="module")
    mixing[0] = True
    with pytest.raises(fxprune.VerifyError, match="do not hold"):
        fxprune.compile(model, plan)


def test_an_autograd_function_in_a_forward_that_follows_the_mode_is_written_once() -> None:
    def run(body: Body, x: Tensor) -> Tensor:
        return nn.functional.dropout(Rounded.apply(x), 0.5, body.training)

    small = fxprune.compile(Body(run).eval(), fxprune.Plan.from_keep(Body(run).eval(), X, {"first": [0, 1, 2]}))
    assert small.code.count("Rounded_apply") == 1
