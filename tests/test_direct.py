"""Compiled code finds its modules without attribute lookups, and still sees every change of them."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import fxprune

X = torch.randn(2, 3, 8, 8)


class Nested(nn.Module):
    """Modules under names, under numbers, and one that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.body = nn.Sequential(nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU()), nn.BatchNorm2d(8))
        self.body.add_module("self.x(y)".replace(".", "_"), nn.Conv2d(8, 6, 1))
        self.activation, self.head = nn.ReLU(), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.activation(self.body(self.activation(self.stem(x)))))


@pytest.fixture
def small() -> fx.GraphModule:
    torch.manual_seed(0)
    model = Nested().eval()
    return fxprune.compile(model, fxprune.plan(model, X, channels=0.5))


def test_no_child_is_looked_up_as_an_attribute(small: fx.GraphModule, monkeypatch: pytest.MonkeyPatch) -> None:
    lookup, asked = nn.Module.__getattr__, list[str]()

    def noted(self: nn.Module, name: str) -> Any:
        if name in self._modules:
            asked.append(name)
        return lookup(self, name)

    monkeypatch.setattr(nn.Module, "__getattr__", noted)
    small(X)
    assert asked == []
    small.stem  # noqa: B018
    assert asked == ["stem"]


def test_the_code_calls_what_the_graph_names(small: fx.GraphModule) -> None:
    assert """self._modules['body']._modules['0']._modules['0'](activation)""" in small.code
    assert """self._modules['body']._modules['self_x(y)'](""" in small.code
    want = small(X)
    assert torch.equal(fx.Interpreter(small).run(X), want)
    plain = fx.GraphModule(small, copy.deepcopy(small.graph))
    plain.graph.set_codegen(fx.graph.CodeGen())
    plain.recompile()
    assert "_modules" not in plain.code and torch.equal(plain(X), want)


@pytest.mark.parametrize("where", ["attribute", "table"])
def test_a_module_that_is_replaced_is_called(where: str, small: fx.GraphModule) -> None:
    class Zero(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.zeros(2, 2, 6, 6)

    if where == "attribute":
        small.head = Zero()
    else:
        small._modules["head"] = Zero()
    assert not small(X).any()


def test_an_edited_graph_runs(small: fx.GraphModule) -> None:
    want = small(X)
    small.add_module("twice", nn.Conv2d(2, 2, 1))
    output = next(node for node in small.graph.nodes if node.op == "output")
    with small.graph.inserting_before(output):
        output.args = (small.graph.call_module("twice", (output.args[0],)),)
    small.recompile()
    assert "self.twice(" in small.code
    assert torch.equal(small(X), small.twice(want))


def test_copies_call_modules_of_their_own(small: fx.GraphModule) -> None:
    for other in (copy.deepcopy(small), pickle.loads(pickle.dumps(small))):
        assert torch.equal(other(X), small(X))
        other.stem.weight.data.zero_()
        assert not torch.equal(other(X), small(X))


def test_other_compilers_read_it(small: fx.GraphModule) -> None:
    want = small(X)
    torch.testing.assert_close(torch.compile(small, backend="eager", fullgraph=True)(X), want)
    exported = torch.export.export(small, (X,))
    torch.testing.assert_close(exported.module()(X), want)
    assert set(exported.state_dict) == set(small.state_dict())
    traced = fx.symbolic_trace(small)
    assert [node.target for node in traced.graph.nodes] == [node.target for node in small.graph.nodes]


def test_compiled_twice_and_in_two_steps_is_written_once(small: fx.GraphModule) -> None:
    again = fxprune.compile(small, fxprune.plan(small, X, channels=0.5))
    assert again.code.count("_modules['stem'](") == 1
    assert again(X).shape == (2, 2, 6, 6)
    assert "_modules" in small.code


def test_the_code_of_the_graph_that_comes_in_stays() -> None:
    traced = fx.symbolic_trace(Nested().eval())
    before = traced.code
    fxprune.compile(traced, fxprune.plan(traced, X, channels=0.5))
    traced.recompile()
    assert traced.code == before
