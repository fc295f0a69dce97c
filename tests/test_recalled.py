"""What the recalling mode answers from memory is what PyTorch's own fake tensors answer, for every op with a case."""

from __future__ import annotations

import copy
from typing import Any

import mend_cases
import pytest
import torch
from one_op import Case, OneOp
from rule_cases import CASES
from torch import Tensor
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torch.utils._pytree import tree_leaves

from fxprune.analysis import analyse
from fxprune_passes import recalled
from fxprune_passes.fakes import shadow
from fxprune_passes.recalled import RecallingMode
from fxprune_passes.replay import Replays


def facts(case: Case, mode: FakeTensorMode) -> list[Any]:
    """Shape, strides, dtype and device of every output, and which input's memory it shares."""
    model = shadow(OneOp(case), mode)
    try:
        with torch.no_grad(), mode:
            outputs = tree_leaves(model(torch.zeros(1)))
    except DynamicOutputShapeException as error:  # an index by values, which capture writes in another way
        return [str(error)]
    inputs = [*model.parameters(), *model.buffers()]
    return [_facts(one, inputs) if isinstance(one, Tensor) else one for one in outputs]


def _facts(tensor: Tensor, inputs: list[Tensor]) -> tuple[Any, ...]:
    shared = [at for at, one in enumerate(inputs) if _memory(one) == _memory(tensor)]
    return tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device, tensor.storage_offset(), shared


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


@pytest.mark.parametrize("case", [*CASES, *mend_cases.CASES], ids=lambda case: case.name)
def test_recalled_is_what_pytorch_answers(case: Case) -> None:
    recalling = RecallingMode()
    want = facts(case, FakeTensorMode(allow_non_fake_inputs=True))
    assert facts(case, recalling) == want  # run
    assert facts(case, recalling) == want  # recalled


def test_an_op_is_recalled_on_the_same_shapes_and_run_on_others() -> None:
    mode = RecallingMode()
    with mode:
        a, b, c = torch.empty(3, 4), torch.empty(4, 5), torch.empty(4, 6)
        first = a @ b
        before = mode.recalled
        again, other = a @ b, a @ c
    assert mode.recalled == before + 1
    assert (first.shape, again.shape, other.shape) == ((3, 5), (3, 5), (3, 6))
    assert _memory(first) != _memory(again)


def test_a_recalled_view_shares_memory_and_is_written_through() -> None:
    mode = RecallingMode()
    with mode:
        a, b = torch.empty(4, 6), torch.empty(4, 6)
        views = [a.view(2, 12), b.view(2, 12)]
    assert [_memory(view) for view in views] == [_memory(a), _memory(b)]


@pytest.mark.parametrize("other", [torch.float64, torch.bfloat16, torch.int64], ids=str)
def test_dtypes_are_told_apart(other: torch.dtype) -> None:
    with RecallingMode():
        a, b = torch.empty(3), torch.empty(3, dtype=other)
        assert [(a + 1).dtype, (b + 1).dtype] == [torch.float32, other]


def test_numbers_that_are_equal_but_of_other_kinds_are_told_apart() -> None:
    with RecallingMode():
        x = torch.empty(3, dtype=torch.int64)
        assert [(x * value).dtype for value in (1, 1.0, True)] == [torch.int64, torch.float32, torch.int64]


def test_what_depends_on_values_is_asked_of_pytorch() -> None:
    with RecallingMode():
        x, mask = torch.empty(4), torch.empty(4, dtype=torch.bool)
        for _ in range(2):
            with pytest.raises(DynamicOutputShapeException):
                x[mask]


def test_a_changed_default_dtype_is_seen() -> None:
    with RecallingMode():
        x = torch.empty(3, dtype=torch.int64)
        before = (x / 2).dtype
        torch.set_default_dtype(torch.float64)
        try:
            assert [before, (x / 2).dtype] == [torch.float32, torch.float64]
        finally:
            torch.set_default_dtype(torch.float32)


def test_equal_calls_of_a_deep_model_run_once_in_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[torch.Size] = []
    forward = torch.nn.Conv2d.forward
    monkeypatch.setattr(torch.nn.Conv2d, "forward", lambda self, x: (runs.append(x.shape), forward(self, x))[1])
    monkeypatch.setattr(recalled, "_MEMORIES", {})
    block = [torch.nn.Conv2d(8, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.ReLU()]
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1), *block, *copy.deepcopy(block), *copy.deepcopy(block)).eval()
    first = analyse(model, torch.zeros(2, 3, 8, 8))
    assert len(runs) == 2  # one of each shape
    again = analyse(model, torch.zeros(2, 3, 8, 8))
    assert len(runs) == 2
    assert [str(group) for group in again.groups] == [str(group) for group in first.groups]
    model[1].padding = (0, 0)  # another call, of which nothing is known
    analyse(model, torch.zeros(2, 3, 8, 8))
    assert len(runs) == 4  # this one, and one of the two equal ones behind it, on smaller images


@pytest.mark.parametrize("way", ["attribute", "forward", "hook"])
def test_a_module_that_does_more_than_its_class_is_run(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recalled, "_MEMORIES", {})
    layer, x = torch.nn.Linear(4, 4), torch.zeros(2, 4)
    mode = RecallingMode()
    fakes = shadow(layer, mode)
    with torch.no_grad(), mode:
        replays, image = Replays(mode), mode.from_tensor(x)
        called = replays.called(fakes, (image,), {})
        assert called is not None
        if way == "attribute":
            fakes.scale = torch.nn.ReLU()
        elif way == "forward":
            fakes.forward = lambda x: x
        else:
            fakes.register_forward_hook(lambda *_: None)
        assert replays.called(fakes, (image,), {}) is None


def test_an_op_that_writes_in_place_gives_what_it_wrote_into() -> None:
    mode = RecallingMode()
    with mode:
        a, b, view = torch.empty(3, 4), torch.empty(3, 4), torch.empty(4, 3)
        before = mode.recalled
        assert a.relu_() is a and b.relu_() is b
        assert mode.recalled == before + 1
        assert view.t_().shape == (3, 4) and view.t_().shape == (4, 3)
        with pytest.raises(RuntimeError, match="broadcast"):
            a.add_(torch.empty(5, 3, 4))


CONVOLUTIONS = [
    # input, weight, options
    ((2, 8, 9, 7), (6, 8, 3, 3), {}),
    ((2, 8, 9, 7), (6, 8, 1, 1), {"stride": 2}),
    ((1, 8, 1, 1), (4, 8, 1, 1), {}),
    ((3, 1, 5, 5), (4, 1, 3, 3), {"padding": 1}),
    ((2, 8, 9, 9), (8, 1, 5, 3), {"groups": 8, "padding": (2, 1), "stride": (2, 1)}),
    ((2, 8, 9, 9), (8, 2, 3, 3), {"groups": 4, "dilation": 2, "padding": 2}),
    ((2, 4, 5, 6, 7), (8, 4, 3, 1, 3), {"padding": (1, 0, 1)}),
    ((1, 64, 14, 14), (256, 64, 1, 1), {}),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("x", "weight", "options"), CONVOLUTIONS, ids=lambda value: str(value))
def test_convolutions_of_new_shapes_are_what_pytorch_answers(
    x: tuple[int, ...], weight: tuple[int, ...], options: dict[str, Any], dtype: torch.dtype
) -> None:
    function = torch.conv3d if len(x) == 5 else torch.conv2d

    def answer(mode: FakeTensorMode, order: torch.memory_format) -> list[Any]:
        with mode, torch.no_grad():
            image, kernel = torch.empty(x, dtype=dtype), torch.empty(weight, dtype=dtype)
            image = image.contiguous(memory_format=order) if len(x) == 4 else image
            bias = torch.empty(weight[0], dtype=dtype)
            outputs = [function(image, kernel, one, **options) for one in (None, bias)]
            scaled = torch.batch_norm(outputs[0], bias, bias, bias, bias, False, 0.1, 1e-5, True)
            return [_facts(one, []) for one in (*outputs, scaled, scaled.sigmoid(), torch.relu_(scaled))]

    for order in (torch.contiguous_format, torch.channels_last):
        want = answer(FakeTensorMode(), order)
        assert answer(RecallingMode(), order) == want


def test_a_convolution_that_does_not_fit_is_refused_as_by_pytorch() -> None:
    with RecallingMode(), torch.no_grad():
        for shape in ((2, 8, 2, 9), (2, 7, 9, 9)):
            with pytest.raises(RuntimeError):
                torch.conv2d(torch.empty(shape), torch.empty(6, 8, 3, 3))


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 6, 1, 1), (3, 1, 1, 1), (2, 3, 4), (4,), (2, 1, 3, 4, 2)], ids=str)
def test_joins_of_new_shapes_are_what_pytorch_answers(shape: tuple[int, ...]) -> None:
    def answer(mode: FakeTensorMode, dim: int, like: torch.memory_format, other: torch.dtype) -> Any:
        with mode, torch.no_grad():
            wider = [*shape[: dim % len(shape)], 7, *shape[dim % len(shape) + 1 :]]
            tensors = [torch.empty(shape, dtype=other), torch.empty(wider), torch.empty(shape)]
            tensors = [one.to(memory_format=like) if one.ndim == 4 else one for one in tensors]
            return _facts(torch.cat(tensors, dim), [])

    for dim in range(-len(shape), len(shape)):
        for like in (torch.contiguous_format, torch.channels_last):
            for other in (torch.float32, torch.float64):
                want = answer(FakeTensorMode(), dim, like, other)
                assert answer(RecallingMode(), dim, like, other) == want


def test_a_join_that_does_not_fit_is_refused_as_by_pytorch() -> None:
    with RecallingMode(), torch.no_grad():
        x = torch.empty(2, 8, 3, 9)
        for others, dim in (([torch.empty(2, 7, 4, 9)], 1), ([torch.empty(2, 8, 3)], 1), ([x], 4), ([x], -5)):
            with pytest.raises((RuntimeError, IndexError)):
                torch.cat([x, *others], dim)
        assert torch.cat([x, torch.empty(0)], 1).shape == x.shape
