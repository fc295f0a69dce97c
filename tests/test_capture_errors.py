"""A model that cannot be captured: the line of user code, its text, the value that stopped it, and what would help."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune

Run = Callable[["Body", Tensor], Any]
X = torch.randn(3, 4)
KEEP_CODE = 'plan and compile with emit="module", which keeps the Python code of the model'
INPUTS = "check the example inputs: rank, shape and dtype"
OUTSIDE = torch.ones(8)


class Body(nn.Module):
    """Two layers around code that a test chooses."""

    def __init__(self, run: Run, *, recorded: bool) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)
        self.weight = nn.Parameter(torch.ones(8))
        self.run, self.recorded = run, recorded

    def forward(self, x: Tensor) -> Any:
        if self.recorded and x.shape[1] == 0:  # symbolic tracing stops here
            return x
        return self.last(self.run(self, self.first(x)))


def branch(body: Body, x: Tensor) -> Tensor:
    return x if x.sum() > 0 else -x


def item(body: Body, x: Tensor) -> Tensor:
    return x * x.sum().item()


def tolist(body: Body, x: Tensor) -> Tensor:
    return x * x.sum(0).tolist()[0]


def number(body: Body, x: Tensor) -> Tensor:
    return x * float(x[0, 0])


def place(body: Body, x: Tensor) -> Tensor:
    return [x, -x][x.argmax() % 2]


def array(body: Body, x: Tensor) -> Tensor:
    return x + torch.as_tensor(x.numpy())


def text(body: Body, x: Tensor) -> Tensor:
    return x * len(f"{x.sum():.1f}")


def nonzero(body: Body, x: Tensor) -> Tensor:
    return x[x[:, 0].nonzero().flatten()]


def by_mask(body: Body, x: Tensor) -> Tensor:
    return x[x[:, 0] > 0]


def unique(body: Body, x: Tensor) -> Tensor:
    return x[: torch.unique(x).shape[0]]


def where(body: Body, x: Tensor) -> Tensor:
    return x[torch.where(x[:, 0] > 0)]


def assigned(body: Body, x: Tensor) -> Tensor:
    x.data = x * 2
    return x


def in_place(body: Body, x: Tensor) -> Tensor:
    with torch.no_grad():
        x.mul_(2)
    return x


def clamped(body: Body, x: Tensor) -> Tensor:
    with torch.no_grad():
        body.weight.clamp_(0)
    return x * body.weight


def inference(body: Body, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return x * 2


def reshaped(body: Body, x: Tensor) -> Tensor:
    return x.view(-1, 5)


LOOKS = (
    (branch, "bool() of bool()", "return x if x.sum() > 0 else -x"),
    (item, "item() of float32()", "return x * x.sum().item()"),
    (tolist, "tolist() of float32(8,) / item() of float32()", "return x * x.sum(0).tolist()[0]"),
    (number, "float() of float32()", "return x * float(x[0, 0])"),
    (place, "index() of int64()", "return [x, -x][x.argmax() % 2]"),
    (array, "numpy() of float32(3, 8)", "return x + torch.as_tensor(x.numpy())"),
    (text, "format() of float32()", 'return x * len(f"{x.sum():.1f}")'),
    (nonzero, "nonzero() of float32(3,)", "return x[x[:, 0].nonzero().flatten()]"),
    (by_mask, "getitem() of float32(3, 8), bool(3,)", "return x[x[:, 0] > 0]"),
    (unique, "unique() of float32(3, 8)", "return x[: torch.unique(x).shape[0]]"),
    (where, "where() of bool(3,)", "return x[torch.where(x[:, 0] > 0)]"),
)


def refusal(model: nn.Module, inputs: Any = X) -> str:
    with pytest.raises(fxprune.CaptureError) as caught:
        fxprune.analyze(model, inputs)
    return str(caught.value)


def line(run: Run, number: int = 1) -> str:
    return f"test_capture_errors.py:{run.__code__.co_firstlineno + number}"  # type: ignore[attr-defined]


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize(("run", "value", "code"), LOOKS, ids=[row[0].__name__ for row in LOOKS])
def test_code_that_looks_at_values(run: Run, value: str, code: str, recorded: bool) -> None:
    first, *rest = refusal(Body(run, recorded=recorded)).splitlines()
    assert first.partition(" cannot be captured: ")[0] in ("Body", "the model")
    stopped = f" cannot be captured: {line(run)} needs the values of a tensor: "
    assert first.partition(stopped)[2] in [f"{one}." for one in value.split(" / ")]  # fake tensors list by item()
    where, shown, mend, other = rest
    assert line(run) in where
    assert shown.strip() == code
    assert mend == f"  mend    {KEEP_CODE},"
    assert other.strip() == "or make the line depend on shapes and constants"


REFUSED = (
    (assigned, "the model assigns to a tensor's .data or .grad (float32(3, 8)), which a graph cannot hold.", KEEP_CODE),
    (in_place, "the model changes float32(3, 8) in place where gradients are off, which a graph cannot hold.", "own,"),
    (clamped, "the model changes float32(8,) in place where gradients are off, which a graph cannot hold.", "own,"),
    (
        inference,
        "the model enters torch.inference_mode, in which changes in place cannot be seen.",
        "use torch.no_grad",
    ),
    (reshaped, "does not run on the example inputs", INPUTS),
)


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize(("run", "first", "mend"), REFUSED, ids=[row[0].__name__ for row in REFUSED])
def test_code_that_a_graph_cannot_hold(run: Run, first: str, mend: str, recorded: bool) -> None:
    message = refusal(Body(run, recorded=recorded))
    assert first in message.splitlines()[0]
    assert "test_capture_errors.py:" in message
    assert mend in message.partition("  mend    ")[2]


def test_a_tensor_from_nowhere() -> None:
    message = refusal(Body(lambda body, x: x + OUTSIDE, recorded=True)).splitlines()
    assert message[0].startswith("a tensor float32(8,) is neither an input, a parameter, a buffer nor")
    assert "lambda body, x: x + OUTSIDE" in message[2]
    assert "self.register_buffer(name, tensor, persistent=False)" in message[3]
    assert KEEP_CODE in message[4]


@pytest.mark.parametrize(
    ("inputs", "problem"),
    [((), "missing a required argument: 'x'"), ((X, X), "too many positional arguments"), ({"y": X}, "missing")],
)
def test_inputs_that_do_not_fit_name_the_forward(inputs: Any, problem: str) -> None:
    first, where, code, mend = refusal(Body(item, recorded=False), inputs).splitlines()
    assert first.startswith("inputs do not fit Body.forward(x: ")
    assert problem in first
    assert where.startswith("  at      test_capture_errors.py:")
    assert code.strip() == "def forward(self, x: Tensor) -> Any:"
    assert "example inputs" in mend


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize(
    ("inputs", "shown"),
    [(torch.randn(3, 5), "float32(3, 5)"), (X.double(), "float64(3, 4)"), (X.long(), "int64(3, 4)")],
    ids=["shape", "float64", "int64"],
)
def test_inputs_of_a_wrong_shape_or_dtype_name_the_call_and_what_it_got(
    inputs: Tensor, shown: str, recorded: bool, caplog: pytest.LogCaptureFixture
) -> None:
    message = refusal(Body(lambda body, x: x, recorded=recorded), inputs)
    assert " on the example inputs: " in message.splitlines()[0]
    assert "return self.last(self.run(self, self.first(x)))" in message
    assert f"the call got {shown}" in message
    assert message.splitlines()[-1] == f"  mend    {INPUTS}"
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
