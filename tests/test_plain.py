"""Masked and parametrized models are read as models of plain tensors, and are not changed."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import randomize
from support import assert_exact
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import fxprune
from fxprune.cli import main
from fxprune.plain import plain
from fxprune.wrappers import unwrap


class LeNet(nn.Module):
    """The network of PyTorch's pruning tutorial, on smaller images, with batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 16, 3)
        self.fc1, self.fc2 = nn.Linear(16 * 16, 24), nn.Linear(24, 10)
        self.layers = [self.conv1, self.conv2]  # what no module table holds must follow all the same

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x).relu()
            x = self.norm(x) if layer is self.conv1 else x
        return self.fc2(self.fc1(nn.functional.max_pool2d(x, 2).flatten(1)).relu())


IMAGES = torch.randn(2, 1, 12, 12, generator=torch.Generator().manual_seed(0))


def lenet() -> LeNet:
    torch.manual_seed(0)
    result = LeNet()
    randomize(result, 0)
    return result.eval()


class EveryOther(prune.BasePruningMethod):
    """The tutorial's custom method."""

    PRUNING_TYPE = "unstructured"

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        mask = default_mask.clone()
        mask.view(-1)[::2] = 0
        return mask


class Soft(EveryOther):
    """Masked weights are a tenth of themselves; the mask is written to, with what it has."""

    def apply_mask(self, module: nn.Module) -> Tensor:
        original, mask = getattr(module, f"{self._tensor_name}_orig"), getattr(module, f"{self._tensor_name}_mask")
        mask.mul_(1)
        return original * (mask + (1 - mask) / 10)


class Dropped(EveryOther):
    def apply_mask(self, module: nn.Module) -> Tensor:
        return nn.functional.dropout(super().apply_mask(module), 0.001)


class Failing(EveryOther):
    def apply_mask(self, module: nn.Module) -> Tensor:
        if hasattr(module, "bias"):
            raise ValueError("fails")
        return super().apply_mask(module)


class Foreign(EveryOther):
    def __call__(self, module: nn.Module, inputs: Any) -> None:
        super().__call__(module, inputs)


class Zeroing(nn.Module):
    """A mask by parametrization."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask  # type: ignore[operator]


class Paired(nn.Module):
    def forward(self, weight: Tensor) -> Any:
        return weight, weight


class Noisy(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return nn.functional.dropout(weight, 1e-6)  # two draws agree, most often


class Counting(nn.Module):
    """Anneals over calls, too slowly for two of them to differ."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, weight: Tensor) -> Tensor:
        self.calls += 1
        return weight * (0.5 if self.calls > 100 else 1.0)


def stacked(m: LeNet) -> None:
    prune.l1_unstructured(m.conv1, "weight", 0.4)
    prune.ln_structured(m.conv1, "weight", amount=2, n=2, dim=0)
    EveryOther.apply(m.conv1, "weight")
    prune.random_unstructured(m.conv1, "bias", 2)


def everywhere(m: LeNet) -> None:
    layers = [(one, name) for one in (m.conv1, m.conv2, m.fc1, m.fc2) for name in ("weight", "bias")]
    prune.global_unstructured(layers, pruning_method=prune.L1Unstructured, amount=0.7)


MASKS: dict[str, Callable[[LeNet], Any]] = {
    "random unstructured": lambda m: prune.random_unstructured(m.conv1, "weight", 0.5),
    "l1 unstructured": lambda m: prune.l1_unstructured(m.conv2, "weight", 20),
    "random structured": lambda m: prune.random_structured(m.conv2, "weight", 0.5, dim=1),
    "ln structured": lambda m: prune.ln_structured(m.conv2, "weight", 0.5, n=float("-inf"), dim=0),
    "global": everywhere,
    "stacked": stacked,
    "bias": lambda m: prune.l1_unstructured(m.fc1, "bias", 12),
    "norm": lambda m: prune.l1_unstructured(m.norm, "weight", 2),
    "identity": lambda m: prune.identity(m.fc1, "weight"),
    "custom from mask": lambda m: prune.custom_from_mask(m.fc2, "weight", torch.eye(10, 24)),
    "custom": lambda m: EveryOther.apply(m.fc1, "weight"),
    "custom apply_mask": lambda m: Soft.apply(m.fc1, "weight"),
}
PARAMETRIZED: dict[str, Callable[[LeNet], Any]] = {
    "mask": lambda m: parametrize.register_parametrization(m.conv2, "weight", Zeroing(m.conv2.weight.detach() > 0)),
    "weight norm": lambda m: parametrizations.weight_norm(m.conv1),
    "orthogonal": lambda m: parametrizations.orthogonal(m.fc1),
    "spectral norm": lambda m: parametrizations.spectral_norm(m.conv2).eval(),
    "two on one": lambda m: parametrizations.spectral_norm(parametrizations.weight_norm(m.fc1)).eval(),
    "a masked original": lambda m: [
        prune.l1_unstructured(m.fc1, "weight", 0.5),
        parametrize.register_parametrization(m.fc1, "weight_orig", Zeroing(m.fc1.weight.detach() > 0)),
    ],
    "buffer": lambda m: parametrize.register_parametrization(m.norm, "running_mean", Zeroing(torch.tensor(2.0))),
}
ALL = [*MASKS.items(), *((f"parametrized {name}", change) for name, change in PARAMETRIZED.items())]


def everything(model: nn.Module) -> list[Any]:
    """All that must not change."""
    tables = [(name, vars(one)[name]) for one in model.modules() for name in sorted(vars(one))]
    tensors = [*model.state_dict().values()]
    return [
        [(name, id(value)) for name, value in tables],
        [list(value.items()) for name, value in tables if "hooks" in name],
        [(id(one), one.requires_grad, one.grad) for one in model.parameters()],
        [(type(one), one.training) for one in model.modules()],
        [(name, value.tolist()) for name, value in model.state_dict().items()],
        [(one.data_ptr(), one._version) for one in tensors],
        torch.get_rng_state().tolist(),
    ]


def applied(model: nn.Module) -> nn.Module:
    """The model after ``prune.remove`` and ``remove_parametrizations`` everywhere."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(module, name)
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, prune.BasePruningMethod):
                prune.remove(module, hook._tensor_name)
    return model


def same_values(one: nn.Module, other: nn.Module) -> None:
    torch.testing.assert_close(dict(one.state_dict()), dict(other.state_dict()), rtol=0, atol=0)


@pytest.mark.parametrize(("name", "change"), ALL, ids=[name for name, _ in ALL])
def test_every_kind_is_read_compiled_and_verified_as_if_applied(
    name: str, change: Callable[[LeNet], Any], tmp_path: Path
) -> None:
    model = lenet()
    change(model)
    want = model(IMAGES)
    before = everything(model)
    plan = fxprune.plan(model, IMAGES, channels=0.5)
    plan.save(tmp_path / "plan.json")
    with torch.random.fork_rng(devices=[]):  # example inputs of a loaded plan are drawn
        small = fxprune.compile(model, fxprune.Plan.load(tmp_path / "plan.json"), statistics="full")
    module = fxprune.compile(model, fxprune.plan(model, IMAGES, channels=0.5, emit="module"), emit="module")
    assert fxprune.verify(model, plan, small).ok
    assert any("applied" in note or "evaluated" in note for note in small.meta["fxprune"]["notes"])
    fxprune.count(model, IMAGES)
    assert everything(model) == before

    copy = plain(model)[0]
    torch.testing.assert_close(copy(IMAGES), want, rtol=0, atol=0)
    assert list(copy.state_dict()) == list(lenet().state_dict()) == list(module.state_dict())
    assert set(small.state_dict()) == set(copy.state_dict())
    assert [(type(one), one.training) for one in copy.modules()] == [(type(one), False) for one in lenet().modules()]

    applied(model)
    same_values(copy, model)
    again = fxprune.plan(model, IMAGES, channels=0.5)
    assert again == plan
    same_values(small, fxprune.compile(model, again, statistics="full"))
    assert_exact(model, again, small, IMAGES)


def test_a_plain_model_is_itself() -> None:
    model = lenet()
    assert unwrap(model) == (model, ())
    prune.l1_unstructured(model.fc1, "weight", 0.5)
    applied(model)
    assert plain(model) == (model, ())


def test_what_does_not_change_is_shared() -> None:
    model = lenet()
    prune.l1_unstructured(model.conv1, "weight", 0.5)
    copy = plain(model)[0]
    assert isinstance(copy, LeNet)
    assert copy.fc1 is model.fc1
    assert copy.conv1.bias is model.conv1.bias
    assert copy.layers == [copy.conv1, copy.conv2]
    assert copy.conv1 is not model.conv1


def test_values_are_those_of_now_and_not_of_the_last_call() -> None:
    model, other = lenet(), lenet()
    for one in (model, other):
        prune.l1_unstructured(one.conv1, "weight", 0.5)
    with torch.no_grad():
        other.conv1.weight_orig.mul_(2)  # type: ignore[operator, union-attr]
    plan = fxprune.plan(model, IMAGES, channels=0.5)
    model.load_state_dict(other.state_dict())
    assert_exact(model, plan, fxprune.compile(model, plan), IMAGES)
    assert torch.equal(plain(model)[0].get_parameter("conv1.weight"), 2 * model.conv1.weight)


def test_a_plan_remembers_its_analysis_of_a_masked_model() -> None:
    model = lenet()
    prune.l1_unstructured(model.conv1, "weight", 0.5)
    wrapped = nn.DataParallel(model)
    plan = fxprune.plan(wrapped, IMAGES, channels=0.5)
    analysis = plan.analysis_of(model)
    prune.random_unstructured(model.conv1, "weight", 0.5)
    assert plan.analysis_of(nn.DataParallel(model)) is analysis
    assert plan.analysis_of(lenet()) is not analysis
    assert_exact(wrapped, plan, fxprune.compile(wrapped, plan), IMAGES)


def test_a_model_that_was_trained_with_masks_works() -> None:
    model = lenet().train()
    everywhere(model)
    parametrizations.weight_norm(model.fc1, "weight_orig")
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model(IMAGES).square().mean().backward()
    optimizer.step()
    assert model.conv1.weight.grad_fn is not None
    for emit in ("graph", "module"):
        plan = fxprune.plan(model.eval(), IMAGES, channels=0.5, emit=emit)
        small = fxprune.compile(model, plan)
        assert fxprune.verify(model, plan, small).ok
        assert {name for name, _ in small.named_parameters()} == {name for name, _ in lenet().named_parameters()}
        assert all(one.requires_grad and one.is_leaf for one in small.parameters())


def test_requires_grad_dtype_and_modes_are_kept() -> None:
    model = lenet().to(torch.bfloat16)
    prune.l1_unstructured(model.conv1, "weight", 0.5)
    model.conv1.weight_orig.requires_grad_(False)  # type: ignore[operator, union-attr]
    model.norm.train()
    copy = plain(model)[0]
    weight = copy.get_parameter("conv1.weight")
    assert (weight.dtype, weight.requires_grad) == (torch.bfloat16, False)
    assert [one.training for one in copy.modules()] == [one.training for one in model.modules()]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu())


@pytest.mark.parametrize("shared", [True, False])
def test_tied_tensors_stay_tied_where_their_masks_agree(shared: bool) -> None:
    model, x = Tied(), torch.randn(2, 4)
    for number, layer in enumerate((model.first, model.second)):
        prune.custom_from_mask(layer, "weight", torch.eye(4) if shared or number else torch.ones(4, 4).triu())
    copy = plain(model)[0]
    assert (copy.get_parameter("first.weight") is copy.get_parameter("second.weight")) is shared
    torch.testing.assert_close(copy(x), model(x), rtol=0, atol=0)


def test_a_tensor_that_is_tied_to_a_masked_one_keeps_its_own_values() -> None:
    model, x = Tied(), torch.randn(2, 4)
    prune.custom_from_mask(model.first, "weight", torch.eye(4))
    copy = plain(model)[0]
    assert copy.get_parameter("second.weight") is model.second.weight
    torch.testing.assert_close(copy(x), model(x), rtol=0, atol=0)


@pytest.mark.parametrize("trained", [False, True])
def test_recurrent_modules_and_attention_are_read(trained: bool) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.attention = nn.LSTM(4, 6), nn.MultiheadAttention(6, 2)
            self.head = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.lstm(x)[0]
            return self.head(self.attention(x, x, x, need_weights=False)[0])

    model, x = Both().eval(), torch.randn(5, 2, 4)
    names = list(model.state_dict())
    prune.l1_unstructured(model.lstm, "weight_hh_l0", 0.5)
    prune.l1_unstructured(model.attention, "in_proj_weight", 0.5)
    prune.l1_unstructured(model.attention.out_proj, "weight", 0.5)
    parametrizations.weight_norm(model.lstm, "weight_ih_l0")
    if trained:
        model(x).sum().backward()
    copy = plain(model)[0]
    assert list(copy.state_dict()) == names
    torch.testing.assert_close(copy(x), model(x), rtol=0, atol=0)
    plan = fxprune.plan(model, x, channels=0.5)
    assert_exact(model, plan, fxprune.compile(model, plan), x)


def test_a_masked_graph_module_keeps_its_hooks_and_what_it_does_not_use() -> None:
    model = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)))
    model.unused = nn.Parameter(torch.zeros(1))
    prune.l1_unstructured(model.get_submodule("0"), "weight", 0.5)
    copy, x = plain(model)[0], torch.randn(2, 4)
    assert set(copy.state_dict()) == {"0.weight", "0.bias", "2.weight", "2.bias", "unused"}
    torch.testing.assert_close(copy(x), model(x), rtol=0, atol=0)
    plan = fxprune.plan(model, x, channels=0.5)
    assert_exact(model, plan, fxprune.compile(model, plan), x)
    model.register_forward_hook(print)
    with pytest.raises(fxprune.CaptureError, match="has a forward hook"):
        fxprune.analyze(model, x)


def test_the_note_names_what_was_done() -> None:
    model = lenet()
    prune.l1_unstructured(model.conv1, "weight", 0.5)
    prune.l1_unstructured(model.fc2, "bias", 0.5)
    parametrizations.weight_norm(model.fc1)
    masks, values = unwrap(nn.DataParallel(model))[1][1:]
    assert masks == "masks are applied: conv1.weight, fc2.bias (torch.nn.utils.prune)"
    assert values == "parametrizations are evaluated: fc1.weight"


def _without(module: nn.Module, table: str, name: str) -> None:
    del getattr(module, table)[name]


BROKEN: dict[str, tuple[Callable[[LeNet], Any], str]] = {
    "no mask": (
        lambda m: _without(m.conv1, "_buffers", "weight_mask"),
        "weight_mask is missing, and a pruning hook asks for it.",
    ),
    "no original": (
        lambda m: _without(m.conv1, "_parameters", "weight_orig"),
        "weight_orig is missing, and a pruning hook asks for it.",
    ),
    "shape": (
        lambda m: setattr(m.conv1, "weight_mask", torch.ones(6, 1, 1, 1)),
        "weight_mask has shape (6, 1, 1, 1), expected that of weight_orig, (6, 1, 3, 3).",
    ),
    "device": (
        lambda m: setattr(m.conv1, "weight_mask", torch.ones(6, 1, 3, 3, device="meta")),
        "weight_mask is on meta, expected the device of weight_orig, cpu.",
    ),
    "does not run": (lambda m: Failing.apply(m.fc1, "bias"), "Failing.apply_mask for 'bias' does not run: fails"),
    "parametrization": (
        lambda m: parametrize.register_parametrization(m.fc1, "weight", Zeroing(torch.ones(3)), unsafe=True),
        "the parametrization of 'weight' does not run: The size of tensor",
    ),
    "no tensor": (
        lambda m: (
            parametrize.register_parametrization(m.fc1, "weight", nn.Flatten(), unsafe=True)
            .parametrizations["weight"]
            .append(Paired())
        ),
        "the parametrization of 'weight' gives a tuple, expected a tensor.",
    ),
    "random": (lambda m: Dropped.apply(m.fc1, "bias"), "Dropped.apply_mask for 'bias' gives no fixed tensor"),
}


@pytest.mark.parametrize(("change", "first"), BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("emit", ["graph", "module"])
def test_masks_that_cannot_be_applied_are_refused_by_name(
    change: Callable[[LeNet], Any], first: str, emit: str
) -> None:
    model = lenet()
    prune.l1_unstructured(model.conv1, "weight", 0.5)
    change(model)
    with pytest.raises(fxprune.CaptureError) as caught:
        fxprune.analyze(model, IMAGES, emit=emit)
    assert str(caught.value).startswith(first)
    assert "\n  at      module " in str(caught.value)
    assert "\n  mend " in str(caught.value)


UNSTEADY: dict[str, Callable[[LeNet], Any]] = {
    "spectral norm": lambda m: parametrizations.spectral_norm(m.fc1.train()),
    "random": lambda m: parametrize.register_parametrization(m.fc1, "weight", Noisy()),
    "counting": lambda m: parametrize.register_parametrization(m.fc1, "weight", Counting()),
}


@pytest.mark.parametrize("change", UNSTEADY.values(), ids=UNSTEADY)
@pytest.mark.parametrize("emit", ["graph", "module"])
def test_a_value_that_changes_from_call_to_call_is_refused(change: Callable[[LeNet], Any], emit: str) -> None:
    model = lenet()
    prune.l1_unstructured(model.conv1, "weight", 0.5)
    change(model)
    before = everything(model)
    with pytest.raises(fxprune.CaptureError) as caught:
        fxprune.analyze(model, IMAGES, emit=emit)
    assert str(caught.value).startswith("module 'fc1' has parametrized tensors (weight)")
    assert "'weight': its value changes from call to call" in str(caught.value)
    assert everything(model) == before


def _legacy(model: LeNet) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # it is deprecated
        nn.utils.weight_norm(model.fc1)


def test_other_hooks_stay_refused() -> None:
    def refusal(change: Callable[[LeNet], Any], emit: str = "graph") -> str:
        model = lenet()
        prune.l1_unstructured(model.conv1, "weight", 0.5)
        change(model)
        with pytest.raises(fxprune.CaptureError) as caught:
            fxprune.analyze(model, IMAGES, emit=emit)
        return str(caught.value).partition("\n")[0]

    assert "'conv1' has a forward pre-hook (print)" in refusal(lambda m: m.conv1.register_forward_pre_hook(print))
    for emit in ("graph", "module"):
        assert "'fc1' has a forward pre-hook (Foreign)" in refusal(lambda m: Foreign.apply(m.fc1, "weight"), emit)
        assert "'fc1' has a forward pre-hook (WeightNorm)" in refusal(_legacy, emit)
    assert "'fc1' has parametrized tensors (weight)" in refusal(
        lambda m: parametrizations.weight_norm(m.fc1).parametrizations.weight.register_forward_hook(print)
    )
    assert "'fc1.parametrizations.weight.original1' has a gradient hook" in refusal(
        lambda m: parametrizations.weight_norm(m.fc1).parametrizations.weight.original1.register_hook(print)
    )
    assert "'conv1.weight_orig' has a gradient hook" in refusal(
        lambda m: m.conv1.weight_orig.register_hook(print)  # type: ignore[operator, union-attr]
    )


def test_a_module_that_cannot_be_copied_is_named() -> None:
    model = lenet()
    prune.l1_unstructured(model.conv1, "weight", 0.5)
    model.source = iter([])  # type: ignore[assignment]
    model.generator = (one for one in ())  # type: ignore[assignment]
    with pytest.raises(fxprune.CaptureError, match="LeNet cannot be copied"):
        fxprune.count(model, IMAGES)


def test_a_masked_model_without_values_is_analysed() -> None:
    model = lenet()
    everywhere(model)
    parametrizations.weight_norm(model.fc1, "weight_orig")
    want = [(group.name, group.size) for group in fxprune.analyze(model, IMAGES)]
    model.to("meta")
    assert [(group.name, group.size) for group in fxprune.analyze(model, IMAGES.to("meta"))] == want


def masked_lenet() -> nn.Module:
    model = lenet()
    everywhere(model)
    return model


def test_the_command_line_takes_masked_models(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    torch.save(masked_lenet().state_dict(), tmp_path / "weights.pt")
    spec = ["prune", f"{__name__}:masked_lenet", "--channels", "0.5", "--input", "1,1,12,12", "--verify"]
    assert main([*spec, "--state-dict", str(tmp_path / "weights.pt"), "--out", str(tmp_path / "out")]) == 0
    assert "masks are applied: conv1.weight, conv1.bias" in capsys.readouterr().out
    weights = torch.load(tmp_path / "out" / "state_dict.pt")
    assert set(weights) == set(lenet().state_dict())
