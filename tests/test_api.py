"""The public API as users rely on it: what stays untouched, what is kept, what is refused, and what comes back."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from networks import randomize
from support import assert_exact, random_plan
from torch import Tensor, nn

import fxprune


class Small(nn.Module):
    """A residual network with a batch norm, a flatten with a literal, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.norm = nn.BatchNorm2d(12)
        self.inner = nn.Conv2d(12, 12, 3, padding=1)
        self.head = nn.Linear(12 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = x + self.inner(x)
        return self.head(nn.functional.avg_pool2d(x, 2).reshape(-1, 192))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    result = Small()
    randomize(result, 0)
    return result.eval()


IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def _everything(model: nn.Module) -> dict[str, Any]:
    """All that must not change: values, identities, flags, hooks, attributes."""
    return {
        "values": {name: value.clone() for name, value in model.state_dict().items()},
        "identities": [id(value) for value in (*model.parameters(), *model.buffers(), *model.modules())],
        "modes": [module.training for module in model.modules()],
        "gradients": [(parameter.requires_grad, parameter.grad) for parameter in model.parameters()],
        "hooks": [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
        "attributes": [sorted(vars(module)) for module in model.modules()],
        "shown": repr(model),
    }


def _assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    torch.testing.assert_close(after.pop("values"), before.pop("values"), rtol=0, atol=0)
    assert after == before


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", ["resnet18", "swin_t"])
def test_the_original_is_never_changed(name: str, train: bool) -> None:
    model = torchvision.models.get_model(name, weights=None).train(train)
    images = torch.randn(2, 3, 64, 64)
    before = _everything(model)
    plan = fxprune.plan(model, images, channels=0.5)
    small = fxprune.compile(model, plan)
    fxprune.verify(model, plan, small, weights=("own",))
    fxprune.count(model, images)
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.zero_()
    _assert_same(before, _everything(model))


def test_names_order_and_train_flags_survive(model: nn.Module) -> None:
    model.norm.train()
    small = fxprune.compile(model, fxprune.plan(model, IMAGES, channels=0.5))
    assert list(small.state_dict()) == list(model.state_dict())
    assert {name: one.training for name, one in small.named_modules()} == {
        name: one.training for name, one in model.named_modules()
    }


def test_compiled_twice_gives_the_same_text(model: nn.Module) -> None:
    plan = fxprune.plan(model, IMAGES, channels=0.5)
    first, second = fxprune.compile(model, plan), fxprune.compile(model, plan)
    assert first.code == second.code
    first.graph.lint()
    assert "192" not in first.code
    assert "96" in first.code


def test_a_compiled_model_is_pruned_again(model: nn.Module) -> None:
    half = fxprune.compile(model, fxprune.plan(model, IMAGES, channels=0.5))
    plan = fxprune.plan(half, IMAGES, channels=0.5)
    quarter = fxprune.compile(half, plan)
    assert quarter.stem.weight.shape[0] == 3
    assert_exact(half, plan, quarter, IMAGES, batch_sizes=(5,))


def test_a_graph_module_is_compiled(model: nn.Module) -> None:
    graph_module = torch.fx.symbolic_trace(model)
    plan = fxprune.plan(graph_module, IMAGES, channels=0.5)
    assert_exact(graph_module, plan, fxprune.compile(graph_module, plan), IMAGES)


def test_dtype_memory_format_and_requires_grad_are_kept(model: nn.Module) -> None:
    model = model.to(torch.bfloat16).to(memory_format=torch.channels_last)
    model.stem.weight.requires_grad_(False)
    plan = fxprune.plan(model, IMAGES.bfloat16(), channels=0.5)
    small = fxprune.compile(model, plan)
    assert {parameter.dtype for parameter in small.parameters()} == {torch.bfloat16}
    assert small.inner.weight.is_contiguous(memory_format=torch.channels_last)
    assert not small.inner.weight.is_contiguous()
    assert [name for name, one in small.named_parameters() if not one.requires_grad] == ["stem.weight"]


def test_a_model_on_the_meta_device_is_compiled_there() -> None:
    with torch.device("meta"):
        model = Small().eval()
    plan = fxprune.plan(model, IMAGES.to("meta"), channels=0.5, criterion="random")
    small = fxprune.compile(model, plan)
    assert {(parameter.device.type) for parameter in small.parameters()} == {"meta"}
    assert small.head.weight.shape == (5, 96)


def test_train_mode_is_compiled_and_exact(model: nn.Module) -> None:
    model.train()
    plan = random_plan(model, IMAGES, fraction=0.5)
    small = fxprune.compile(model, plan)
    assert small.training
    assert_exact(model, plan, small, IMAGES, batch_sizes=(4,))


def test_a_tied_parameter_stays_one(model: nn.Module) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(20, 8)
            self.mid = nn.Linear(8, 8)
            self.out = nn.Linear(8, 20, bias=False)
            self.out.weight = self.embed.weight

        def forward(self, tokens: Tensor) -> Tensor:
            return self.out(self.mid(self.embed(tokens)).relu() + self.embed(tokens))

    tied, tokens = Tied().eval(), torch.randint(20, (2, 6))
    small = fxprune.compile(tied, fxprune.plan(tied, tokens, channels=0.5))
    assert small.embed.weight is small.out.weight
    assert small.embed.weight.shape == (20, 4)


def test_plan_keeps_what_scores_highest(model: nn.Module) -> None:
    plan = fxprune.plan(model, IMAGES, channels=0.25, criterion=lambda group: -torch.arange(group.size).float())
    assert plan.kept("stem.weight")[0].tolist() == [0, 1, 2]
    assert [len(index) for index in plan.kept("inner.weight")] == [3, 3, 3, 3]
    assert plan.kept("head.weight")[1].tolist() == list(range(48))


@pytest.mark.parametrize(("criterion", "order"), [("l1", 1), ("l2", 2)])
def test_magnitudes_are_summed_over_all_writers_of_a_group(criterion: str, order: int, model: nn.Module) -> None:
    plan = fxprune.plan(model, IMAGES, channels=0.5, criterion=criterion)
    weights = torch.cat([model.stem.weight.flatten(1), model.inner.weight.flatten(1)], 1)
    best = torch.linalg.vector_norm(weights, order, dim=1).topk(6).indices.sort().values
    assert plan.kept("stem.weight")[0].tolist() == best.tolist()


def test_random_follows_its_seed(model: nn.Module) -> None:
    plans = [fxprune.plan(model, IMAGES, channels=0.5, criterion="random", seed=seed).keep for seed in (0, 0, 1)]
    assert plans[0] == plans[1] != plans[2]


@pytest.mark.parametrize("pattern", ["stem", "inner.weight", "in*", "stem.*"])
def test_an_ignored_module_keeps_its_output_width(pattern: str, model: nn.Module) -> None:
    assert fxprune.plan(model, IMAGES, channels=0.5, ignore=(pattern,)).keep == {}


def test_round_to_gives_multiples() -> None:
    model = torchvision.models.resnet18().eval()
    plan = fxprune.plan(model, torch.randn(1, 3, 64, 64), channels=0.3, round_to=16)
    assert {len(kept) % 16 for kept in plan.keep.values()} == {0}
    assert len(plan.keep["layer1.0.conv1"]) == 16


def test_explicit_indices_by_any_member(model: nn.Module) -> None:
    plans = [
        fxprune.Plan.from_keep(model, IMAGES, {name: [0, 2, 5]})
        for name in ("stem", "norm", "inner", "stem.bias", "inner.weight", "norm.running_mean", "head.weight:1")[:6]
    ]
    assert {tuple(plan.keep.items()) for plan in plans} == {tuple(plans[0].keep.items())}
    assert plans[0].kept("norm.running_var")[0].tolist() == [0, 2, 5]


def test_a_saved_plan_compiles_to_the_same_model(model: nn.Module, tmp_path: Path) -> None:
    plan = random_plan(model, IMAGES, fraction=0.5)
    plan.save(tmp_path / "plan.json")
    loaded = fxprune.Plan.load(tmp_path / "plan.json")
    assert loaded == plan
    assert json.loads((tmp_path / "plan.json").read_text())["groups"]["stem"]["width"] == 12
    for name in model.state_dict():
        assert [one.tolist() for one in loaded.kept(name)] == [one.tolist() for one in plan.kept(name)]
    first, second = fxprune.compile(model, plan), fxprune.compile(copy.deepcopy(model), loaded)
    assert first.code == second.code
    torch.testing.assert_close(second(IMAGES), first(IMAGES))


def test_a_changed_model_is_analysed_again(model: nn.Module) -> None:
    plan = fxprune.plan(model, IMAGES, channels=0.5)
    model.stem.padding, model.stem.dilation = (2, 2), (2, 2)
    assert_exact(model, plan, fxprune.compile(model, plan), IMAGES)


@pytest.mark.parametrize("inputs", [IMAGES, (IMAGES,), {"x": IMAGES}])
def test_inputs_are_a_tensor_a_tuple_or_keywords(inputs: Any, model: nn.Module) -> None:
    assert [(group.name, group.size) for group in fxprune.analyze(model, inputs)] == [("stem", 12)]


def test_tables_name_groups_members_and_reasons(model: nn.Module) -> None:
    plan = fxprune.plan(model, IMAGES, channels=0.5)
    groups = str(fxprune.analyze(model, IMAGES))
    assert "stem.weight:0" in groups
    assert "head.weight:1" in groups
    assert "model output" in groups
    assert "50%" in str(plan)


def test_a_branch_pruned_to_nothing_is_gone() -> None:
    model = torchvision.models.resnet18()
    randomize(model, 0)
    model.eval()
    images = torch.randn(2, 3, 64, 64)
    plan = fxprune.Plan.from_keep(model, images, {"layer1.0.conv1": []})
    small = fxprune.compile(model, plan)
    names = {node.name for node in small.graph.nodes}
    assert not names & {"layer1_0_conv1", "layer1_0_bn1", "layer1_0_conv2"}
    assert not [name for name in small.state_dict() if name.startswith(("layer1.0.conv", "layer1.0.bn1"))]
    assert_exact(model, plan, small, images, batch_sizes=(3,))


def test_what_is_left_of_a_branch_without_bias_or_norm_is_the_other_side() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 1)
            self.down = nn.Conv2d(8, 4, 1)
            self.up = nn.Conv2d(4, 8, 1, bias=False)
            self.head = nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.head(x + self.up(self.down(x).relu()))

    model = Residual().eval()
    plan = fxprune.Plan.from_keep(model, IMAGES, {"down": []})
    small = fxprune.compile(model, plan)
    assert [node.name for node in small.graph.nodes] == ["x", "stem", "head", "output"]
    assert_exact(model, plan, small, IMAGES)


def _keep(keep: dict[str, list[int]]) -> Callable[[nn.Module], Any]:
    return lambda model: fxprune.Plan.from_keep(model, IMAGES, keep)


def _plan(channels: float = 0.5, **options: Any) -> Callable[[nn.Module], Any]:
    return lambda model: fxprune.plan(model, IMAGES, channels=channels, **options)


def _refusals() -> list[Any]:
    return [
        ("index", _keep({"stem": [0, 12]}), "'stem' has 12 channels, the plan keeps index 12."),
        ("unknown", _keep({"stam": [0]}), "no module, parameter or channel group is called 'stam'."),
        ("frozen", _keep({"head": [0]}), "'head' cannot be pruned: 5 channels, frozen by model output"),
        ("twice", _keep({"stem": [1, 1]}), "'stem' keeps an index twice: [1, 1]."),
        ("conflict", _keep({"stem": [1], "inner": [2]}), "'inner' and an earlier entry ask for"),
        ("empty", lambda model: fxprune.compile(model, _keep({"stem": []})(model)), "the plan removes every channel"),
        ("above", _plan(1.5), "channels=1.5 is out of range"),
        ("zero", _plan(0), "channels=0 is out of range"),
        ("round", _plan(round_to=0), "round_to=0, expected None, 'auto' or a positive"),
        ("ignore", _plan(ignore=("fc",)), "ignore names 'fc', which matches no"),
        ("string", _plan(ignore="stem"), "ignore='stem' is a string"),
        ("name", _plan(criterion="l3"), "criterion 'l3' is unknown"),
        ("nan", _plan(criterion=_nan), "criterion _nan gave NaN for 12 of 12"),
        ("shape", _plan(criterion=_one), "criterion _one gave scores of shape (1,)"),
        ("parameter", lambda model: _plan()(model).kept("stem.x"), "the plan knows no parameter"),
        ("other", lambda model: fxprune.compile(nn.Linear(2, 2), _plan()(model)), "plan was made for another"),
    ]


def _nan(group: fxprune.ChannelGroup) -> Tensor:
    return torch.full((group.size,), torch.nan)


def _one(group: fxprune.ChannelGroup) -> Tensor:
    return torch.ones(1)


@pytest.mark.parametrize(("call", "first"), [case[1:] for case in _refusals()], ids=[case[0] for case in _refusals()])
def test_a_bad_plan_is_refused(call: Callable[[nn.Module], Any], first: str, model: nn.Module) -> None:
    before = _everything(model)
    with pytest.raises(fxprune.PlanError) as caught:
        call(model)
    assert str(caught.value).startswith(first)
    _assert_same(before, _everything(model))


def _with(change: Callable[[nn.Module], Any]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        model = Small().eval()
        change(model)
        return model

    return build


def _quietly(call: Callable[[], Any]) -> Any:
    """TorchScript and torch.ao are deprecated, and say so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call()


def _scripted(model: nn.Module) -> Any:
    return _quietly(lambda: torch.jit.script(model))


def _quantised(model: nn.Module) -> Any:
    return _quietly(lambda: torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, inplace=True))


_MODELS = [
    (
        lambda: nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2)),
        "parameter '0.weight' is not initialised (a lazy module)",
    ),
    (_with(lambda m: m.stem.register_forward_hook(print)), "module 'stem' has a forward hook (print)"),
    (_with(lambda m: m.register_forward_pre_hook(print)), "module 'Small' has a forward pre-hook (print)"),
    (_with(lambda m: m.stem.register_full_backward_hook(print)), "module 'stem' has a backward hook (print)"),
    (_with(lambda m: m.stem.weight.register_hook(print)), "parameter 'stem.weight' has a gradient hook"),
    (
        _with(lambda m: nn.utils.parametrizations.spectral_norm(m.stem.train())),
        "module 'stem' has parametrized tensors (weight)",
    ),
    (_with(lambda m: nn.utils.spectral_norm(m.stem)), "module 'stem' has a forward pre-hook (SpectralNorm)"),
    (_with(lambda m: setattr(m, "head", torch.compile(m.head))), "module 'head' is compiled by torch.compile inside"),
    (lambda: _scripted(Small()), "the model is a RecursiveScriptModule, TorchScript code"),
    (_with(lambda m: setattr(m, "stem", _scripted(m.stem))), "module 'stem' is a RecursiveScriptModule, TorchScript"),
    (
        _with(_quantised),
        "module 'head' is a quantised Linear (torch.ao.nn.quantized.dynamic.modules.linear), expected floating point.",
    ),
    (
        lambda: _quietly(lambda: torchvision.models.quantization.resnet18(quantize=True)),
        "module 'conv1' is a quantised ConvReLU2d (torch.ao.nn.intrinsic.quantized.modules.conv_relu), expected",
    ),
    (_with(lambda m: m.head.to("meta")), "model is on several devices: cpu (stem.weight), meta (head.weight)"),
]


@pytest.mark.parametrize(("build", "first"), _MODELS, ids=range(len(_MODELS)))
def test_a_model_that_cannot_be_captured_is_refused_by_name(build: Callable[[], nn.Module], first: str) -> None:
    with pytest.raises(fxprune.CaptureError) as caught:
        fxprune.analyze(build(), IMAGES)
    assert str(caught.value).startswith(first)
    assert "\n  mend " in str(caught.value)


@pytest.mark.parametrize("change", [_quantised, lambda model: setattr(model, "stem", _scripted(model.stem))])
def test_what_cannot_be_counted_is_refused_by_name(change: Callable[[nn.Module], Any]) -> None:
    with pytest.raises(fxprune.CaptureError, match=r"module '\w+' is a"):
        fxprune.count(_with(change)(), IMAGES)


def test_float_modules_of_the_quantisation_toolkit_are_accepted() -> None:
    model = torchvision.models.quantization.resnet18(quantize=False).eval()
    assert "layer1.0.conv1" in [group.name for group in fxprune.analyze(model, torch.randn(1, 3, 64, 64))]


@pytest.mark.parametrize(
    ("inputs", "part"),
    [
        (torch.randn(3), "Expected 3D (unbatched) or 4D (batched) input to conv2d, but got input of size: [3]"),
        (torch.randn(2, 4, 8, 8), "to have 3 channels, but got 4 channels instead"),
        (torch.randn(2, 3, 8, 8).double(), "Input type (double) and bias type (float) should be the same"),
        (torch.ones(2, 3, 8, 8, dtype=torch.int64), "Input type (long int) and bias type (float) should be the same"),
        ({"y": IMAGES}, "missing a required argument: 'x'"),
        ([IMAGES], "got list"),
    ],
    ids=["rank", "channels", "dtype", "integers", "keyword", "list"],
)
def test_inputs_that_do_not_fit_are_refused(inputs: Any, part: str, model: nn.Module) -> None:
    before = _everything(model)
    with pytest.raises(fxprune.CaptureError) as caught:
        fxprune.analyze(model, inputs)
    assert part in str(caught.value).splitlines()[0]
    _assert_same(before, _everything(model))


def test_a_file_that_is_no_plan_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("channels")
    (tmp_path / "empty").write_text("{}")
    for name, part in (("none", "No such file"), ("text", "is not JSON"), ("empty", "is no plan")):
        with pytest.raises(fxprune.ArtifactError, match=part):
            fxprune.Plan.load(tmp_path / name)


def test_variadic_and_nested_inputs_are_bound() -> None:
    class Variadic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right, self.head = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, *inputs: Tensor, scales: tuple[Tensor, Tensor], **more: Tensor) -> Tensor:
            x = self.left(inputs[0]) * scales[0] + self.right(inputs[1]) * scales[1]
            return self.head(x + more["shift"])

    class Call(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Variadic()

        def forward(self, x: Tensor, y: Tensor, pair: tuple[Tensor, Tensor]) -> Tensor:
            return self.inner(x, y, scales=pair, shift=x[:, :1])

    inputs = (torch.randn(3, 4), torch.randn(3, 4), (torch.randn(3, 1), torch.randn(3, 1)))
    model = Call().eval()
    plan = random_plan(model, inputs, fraction=0.5)
    assert list(plan.keep) == ["inner.left"]
    assert_exact(model, plan, fxprune.compile(model, plan), inputs)


def test_positional_varargs_are_inputs() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide, self.head = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, *inputs: Tensor) -> Tensor:
            return self.head(self.wide(inputs[0]) + self.wide(inputs[1]))

    model, inputs = Sum().eval(), (torch.randn(3, 4), torch.randn(3, 4))
    plan = random_plan(model, inputs, fraction=0.5)
    small = fxprune.compile(model, plan)
    assert_exact(model, plan, small, inputs, batch_sizes=(5,))


def test_every_node_says_which_promise_it_is_under() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 2)).eval()
    inputs = torch.randn(3, 6)
    plan = random_plan(model, inputs, fraction=0.5)
    for statistics, expected in (("kept", ["_1"]), ("full", [])):
        small = fxprune.compile(model, plan, statistics=statistics)
        assert [node.name for node in small.graph.nodes if node.meta["promise"] != "exact"] == expected
        assert_exact(model, plan, small, inputs)
    plan = fxprune.plan(model, inputs, channels=0.5)
    report = str(fxprune.verify(model, plan, fxprune.compile(model, plan)))
    assert "statistics over the channels that are left: _1; every other node is exact" in report


class LeNet(nn.Module):
    """As PyTorch's pruning tutorial writes it: the size of the flatten is computed from the data."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(nn.functional.relu(self.conv1(x)), (2, 2))
        x = nn.functional.max_pool2d(nn.functional.relu(self.conv2(x)), 2)
        x = x.view(-1, int(x.nelement() / x.shape[0]))
        x = nn.functional.relu(self.fc1(x))
        x = nn.functional.relu(self.fc2(x))
        return self.fc3(x)


@pytest.mark.parametrize("batch", [1, 2])
def test_lenet_of_the_pruning_tutorial(batch: int) -> None:
    model, images = LeNet().eval(), torch.randn(batch, 1, 32, 32)
    plan = random_plan(model, images, fraction=0.5)
    assert list(plan.widths) == ["conv1", "conv2", "fc1", "fc2"]
    small = fxprune.compile(model, plan)
    assert small.fc1.weight.shape == (60, 8 * 25)
    assert_exact(model, plan, small, images, batch_sizes=(5,))


def test_an_autocast_region_inside_a_forward_is_refused() -> None:
    class Cast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide, self.head = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                x = self.wide(x)
            return self.head(x.float())

    enter = torch.autocast.__enter__
    with pytest.raises(fxprune.CaptureError, match=r"the model enters torch.autocast at test_api.py:\d+"):
        fxprune.analyze(Cast(), torch.randn(2, 4))
    assert torch.autocast.__enter__ is enter


class Picked(nn.Module):
    """Channels picked by boolean vectors: a buffer, and a plain tensor of a module."""

    def __init__(self, *, recorded: bool) -> None:
        super().__init__()
        self.wide, self.head, self.tail = nn.Linear(4, 8), nn.Linear(5, 2), nn.Linear(4, 2)
        self.register_buffer("mask", torch.arange(8) % 3 > 0)
        self.tail.plain = torch.tensor([True, False, True, True, True])
        self.register_buffer("unread", torch.tensor([True, False]))
        self.recorded = recorded

    def forward(self, x: Tensor) -> Tensor:
        if self.recorded and x.shape[1] == 0:  # symbolic tracing stops here
            return x
        x = self.wide(x)[:, self.mask]
        return self.head(x) + self.tail(x[..., self.tail.plain])


def test_boolean_vectors_pick_channels_under_both_tracers() -> None:
    x, plans = torch.randn(3, 4), []
    for recorded in (False, True):
        torch.manual_seed(0)
        model = Picked(recorded=recorded).eval()
        plans.append(fxprune.plan(model, x, channels=0.5))
        assert_exact(model, plans[-1], fxprune.compile(model, plans[-1]), x, batch_sizes=(5,))
    assert dict(plans[0].keep) == dict(plans[1].keep)
    assert list(plans[0].keep) == ["wide"]


def test_boolean_vectors_pick_channels_in_a_graph_module() -> None:
    graph_module, x = torch.fx.symbolic_trace(Picked(recorded=False).eval()), torch.randn(3, 4)
    plan = fxprune.plan(graph_module, x, channels=0.5)
    assert list(plan.keep) == ["wide"]
    assert not [name for name in plan.axes if "unread_places" in name]
    assert_exact(graph_module, plan, fxprune.compile(graph_module, plan), x)
