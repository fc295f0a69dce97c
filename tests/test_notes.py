"""What a graph was specialised to and what it leaves out is said: in the groups, the plan, the result, the report."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from networks import randomize
from torch import Tensor, nn

import fxprune


class Branching(nn.Module):
    """Python that looks at sizes, and a head for training alone."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 8)
        self.aux = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3))
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Any:
        x = self.body(x).relu()
        if x.shape[1] > 4:
            x = 2 * x
        return (self.head(x), self.aux(x)) if self.training else self.head(x)


X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


def built(*, train: bool = False) -> nn.Module:
    model = Branching()
    randomize(model, 0)
    return model.train(train)


def said(model: nn.Module) -> list[str]:
    """Where notes are told, as text."""
    plan = fxprune.plan(model, X, channels=0.5)
    small = fxprune.compile(model, plan)
    report = fxprune.verify(model, plan, small)
    assert report.ok, str(report)
    return [str(fxprune.analyze(model, X)), str(plan), str(small.meta["fxprune"]["notes"]), str(report)]


def test_a_size_that_became_a_literal_is_told_with_its_line() -> None:
    for text in said(built()):
        assert "fixed to the example inputs at test_notes.py:" in text
        assert ": comparison of 8" in text
    model = built()
    small = fxprune.compile(model, fxprune.plan(model, X, channels=0.5))
    baked = [(line.partition(":")[0], what, value) for line, what, value in small.meta["baked"]]
    assert baked == [("test_notes.py", "comparison", 8), ("test_notes.py", "training", False)]


def test_a_mode_that_was_looked_at_is_told_as_a_mode() -> None:
    for text in said(built()):
        assert "fixed to the mode at test_notes.py:" in text
        assert ": training is False" in text


def test_of_many_lines_the_first_are_told_and_the_rest_counted() -> None:
    source = "\n".join(["def run(x):", *("    x = x if x.shape[1] > 3 else -x" for _ in range(20)), "    return x"])
    space: dict[str, Any] = {}
    exec(compile(source, "looks.py", "exec"), space)

    class Looks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(4, 8)

        def forward(self, x: Tensor) -> Any:
            return space["run"](self.body(x))

    notes = fxprune.analyze(Looks().eval(), X).notes
    assert len(notes) == 13
    assert notes[0] == "fixed to the example inputs at looks.py:2: comparison of 8"
    assert notes[-1].startswith("fixed at 8 more lines")


def test_literals_of_the_first_capture_are_still_told_when_the_result_is_compiled_again() -> None:
    model = built()
    half = fxprune.compile(model, fxprune.plan(model, X, channels=0.5))
    quarter = fxprune.compile(half, fxprune.plan(half, X, channels=0.5))
    assert quarter.meta["baked"] == half.meta["baked"] != []


def test_parameters_that_no_node_reads_are_told_and_left_out() -> None:
    for text in said(built()):
        assert "the forward in eval mode does not use, and the compiled model leaves out: aux" in text
    model = built()
    small = fxprune.compile(model, fxprune.plan(model, X, channels=0.5))
    assert not [name for name, _ in small.named_parameters() if name.startswith("aux")]


def test_a_single_unread_parameter_of_a_module_is_told_by_its_own_name() -> None:
    class Part(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.read, self.unread = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.read

    model = nn.Sequential(Part(), nn.Linear(4, 2)).eval()
    assert fxprune.analyze(model, X).notes == (
        "the forward in eval mode does not use, and the compiled model leaves out: 0.unread",
    )


def test_a_model_in_train_mode_is_captured_in_train_mode() -> None:
    model = built(train=True)
    plan = fxprune.plan(model, X, channels=0.5)
    assert set(plan.keep) == {"body", "aux.0"}
    small = fxprune.compile(model, plan)
    assert small.training
    assert [one.shape for one in small(X)] == [(3, 2), (3, 3)]
    assert "leaves out" not in str(plan)
    assert fxprune.verify(model, plan, small).ok


def test_a_plan_of_one_mode_is_analysed_anew_for_the_other() -> None:
    model = built(train=True)
    plan = fxprune.plan(model, X, channels=0.5)
    with pytest.raises(fxprune.PlanError, match="plan was made for another model: channel groups differ"):
        fxprune.compile(model.eval(), plan)


def test_a_graph_that_is_the_whole_model_for_any_size_has_no_notes() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    groups = fxprune.analyze(model, X)
    assert groups.notes == ()
    assert "note" not in str(groups)


@pytest.fixture(scope="module")
def process_group() -> Any:
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


WRAPPERS: dict[str, Callable[[nn.Module], Any]] = {
    "torch.compile": torch.compile,
    "DataParallel": nn.DataParallel,
    "DistributedDataParallel": nn.parallel.DistributedDataParallel,
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_wrappers_are_taken_off_and_that_is_told(name: str, process_group: None) -> None:
    model = built(train=True)
    wrapped = WRAPPERS[name](model)
    note = f"{name} is taken off: names are those of the Branching inside"
    assert all(note in text for text in said(wrapped))

    plan = fxprune.plan(wrapped, X, channels=0.5, ignore=("aux.0",))
    assert plan == fxprune.plan(model, X, channels=0.5, ignore=("aux.0",))
    assert plan.kept("body.weight")[0].numel() == 4
    chosen = fxprune.Plan.from_keep(wrapped, X, {"body": [0, 5]})
    assert list(fxprune.compile(wrapped, chosen).state_dict()) == list(model.state_dict())
    assert fxprune.compile(model, chosen).code == fxprune.compile(wrapped, chosen).code
    assert fxprune.verify(wrapped, chosen, fxprune.compile(model, chosen)).ok
    assert fxprune.count(wrapped, X) == fxprune.count(model, X)


def test_wrappers_around_wrappers_are_taken_off() -> None:
    model = built()
    notes = fxprune.analyze(torch.compile(nn.DataParallel(model)), X).notes
    assert [note.partition(" is")[0] for note in notes[:2]] == ["torch.compile", "DataParallel"]


def test_a_wrapper_inside_a_model_is_traced_into() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.DataParallel(nn.Linear(8, 8)), nn.Linear(8, 2)).eval()
    plan = fxprune.plan(model, X, channels=0.5)
    assert list(plan.keep) == ["0", "1.module"]
    assert fxprune.verify(model, plan, fxprune.compile(model, plan)).ok


def test_modules_compiled_in_place_are_compiled_to_plain_ones_and_that_is_told() -> None:
    model = built()
    model.compile()
    model.head.compile()
    assert all("compile() of these is not carried over, compile the result: Branching, head" in s for s in said(model))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("criterion", ["l1", "l2", "random"])
def test_narrow_parameters_keep_their_dtype(dtype: torch.dtype, criterion: str) -> None:
    model, x = built().to(dtype), X.to(dtype)
    plan = fxprune.plan(model, x, channels=0.5, criterion=criterion)
    small = fxprune.compile(model, plan)
    assert {parameter.dtype for parameter in small.parameters()} == {dtype}
    assert small(x).dtype == dtype
    report = fxprune.verify(model, plan, small)
    assert report.ok, str(report)


def test_layers_of_different_dtypes_each_keep_theirs() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.narrow, self.last = nn.Linear(4, 8), nn.Linear(8, 8).bfloat16(), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.narrow(self.first(x).to(torch.bfloat16)).float())

    model = Mixed().eval()
    plan = fxprune.plan(model, X, channels=0.5)
    small = fxprune.compile(model, plan)
    assert {name: one.dtype for name, one in small.named_parameters()} == {
        name: one.dtype for name, one in model.named_parameters()
    }
    assert fxprune.verify(model, plan, small).ok
    assert copy.deepcopy(small)(X).dtype == torch.float32
