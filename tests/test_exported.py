"""Exported programs: compiled = masked original, from plain export and core ATen; the result is exported again."""

from __future__ import annotations

import io
import warnings
from typing import Any

import pytest
import torch
import torchvision
from networks import NETWORKS, Network, randomize, rebatched
from support import assert_exact, random_plan
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.utils._pytree import tree_leaves

import fxprune

BATCH = Dim("batch", min=2)
IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
SAMPLE = NETWORKS[::25]
NORMS = [network for network in NETWORKS if "norm" in network.construct][::12]


def exported(model: nn.Module, inputs: Any, *, core: bool = False, **options: Any) -> ExportedProgram:
    args, kwargs = ((), inputs) if isinstance(inputs, dict) else (inputs, {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.export.export(model, args, kwargs, **options)
        return program.run_decompositions() if core else program


def dynamic(inputs: Any) -> Any:
    """Every input's first axis dynamic."""
    values = inputs.items() if isinstance(inputs, dict) else enumerate(inputs)
    shapes = {key: {0: Dim.AUTO} if value.ndim else None for key, value in values}
    return shapes if isinstance(inputs, dict) else tuple(shapes.values())


def vision_transformer() -> nn.Module:
    return torchvision.models.VisionTransformer(64, 16, 2, 4, 32, 64)


def named(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "vision_transformer":
        return vision_transformer().eval()
    if name == "swin_transformer":
        return torchvision.models.SwinTransformer([4, 4], 16, [2, 2], [2, 4], [4, 4]).eval()
    return torchvision.models.get_model(name, weights=None).eval()


def built(network: Network) -> nn.Module:
    torch.manual_seed(0)
    model = network.build().eval()
    randomize(model, 0)
    return model


class Nested(nn.Module):
    """Nested and keyword inputs, a dict as output, a constant, a buffer that is not saved, a norm that counts."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)
        self.register_buffer("scale", torch.rand(6) + 0.5, persistent=False)
        self.shift = torch.rand(6)

    def forward(self, x: Tensor, pair: dict[str, list[Tensor]], *, gate: Tensor) -> dict[str, Tensor]:
        y = self.norm(self.first(x) * self.scale).relu() + self.shift
        return {"y": self.last(y) * gate + pair["q"][0], "same": pair["q"][1]}


def nested(*, train: bool, core: bool) -> ExportedProgram:
    torch.manual_seed(0)
    model = Nested().train(train)
    args = (torch.randn(4, 8), {"q": [torch.randn(4, 3), torch.randn(4, 3)]})
    shapes = {"x": {0: BATCH}, "pair": {"q": [{0: BATCH}, {0: BATCH}]}, "gate": None}
    program = torch.export.export(model, args, {"gate": torch.rand(1, 3)}, dynamic_shapes=shapes)
    return program.run_decompositions() if core else program


def frozen_state(program: ExportedProgram) -> tuple[str, str, dict[str, Tensor]]:
    state = {name: tensor.clone() for name, tensor in program.state_dict.items()}
    return program.graph_module.code, str(program.graph_signature), state


def assert_untouched(program: ExportedProgram, before: tuple[str, str, dict[str, Tensor]]) -> None:
    code, signature, state = frozen_state(program)
    assert (code, signature, list(state)) == (before[0], before[1], list(before[2]))
    assert all(torch.equal(tensor, before[2][name]) for name, tensor in state.items())


def assert_same(got: Any, want: Any) -> None:
    for one, other in zip(tree_leaves(got), tree_leaves(want), strict=True):
        torch.testing.assert_close(one, other, equal_nan=True)


@pytest.mark.parametrize("core", [False, True], ids=["plain", "core"])
@pytest.mark.parametrize("network", SAMPLE, ids=lambda network: network.name)
def test_a_program_compiles_to_the_masked_original(network: Network, core: bool) -> None:
    model, inputs = built(network), network.inputs()
    shapes = dynamic(inputs) if network.batch and not core else None
    program = exported(model, inputs, core=core, dynamic_shapes=shapes)
    before, sizes = frozen_state(program), (5,) if shapes else ()
    plan = random_plan(program, None, fraction=0.5)
    small = fxprune.compile(program, plan, statistics="full")
    assert_exact(program, plan, small, inputs, batch_sizes=sizes)
    assert_untouched(program, before)
    again = fxprune.compile(program, plan, statistics="full", emit="exported")
    call = (lambda one: one(**inputs)) if isinstance(inputs, dict) else (lambda one: one(*inputs))
    with torch.no_grad():
        want = call(small)
        assert_same(call(again.module()), want)
        assert_same(call(torch.export.unflatten(again)), want)
        if shapes:
            more: Any = rebatched(inputs, 5)
            assert_same(*((one(**more) if isinstance(more, dict) else one(*more)) for one in (again.module(), small)))
    assert set(again.state_dict) == set(small.state_dict()) <= set(program.state_dict)


@pytest.mark.parametrize("statistics", ["kept", "full"])
@pytest.mark.parametrize(
    "network", [one for one in NETWORKS if "norm" in one.construct][::12], ids=lambda one: one.name
)
def test_statistics_of_a_program_are_taken_as_asked(network: Network, statistics: str) -> None:
    program = exported(built(network), network.inputs(), core=True)
    plan = random_plan(program, None, fraction=0.5)
    assert_exact(program, plan, fxprune.compile(program, plan, statistics=statistics), network.inputs())


@pytest.mark.parametrize(
    ("name", "core"),
    [
        ("resnet18", False),
        ("mobilenet_v3_small", False),
        ("shufflenet_v2_x0_5", False),
        ("squeezenet1_1", True),
        ("vision_transformer", False),
        ("vision_transformer", True),
        ("swin_transformer", True),
    ],
    ids=lambda one: one if isinstance(one, str) else "core" if one else "plain",
)
def test_a_model_exported_with_a_dynamic_batch(name: str, core: bool) -> None:
    model = named(name)
    program = exported(model, (IMAGES,), core=core, dynamic_shapes=({0: BATCH},))
    assert_compiles(model, program, batch_sizes=(5,))


def assert_compiles(model: nn.Module, program: ExportedProgram, batch_sizes: tuple[int, ...] = ()) -> None:
    """Exact under a random plan, with the names of the model, and as much to choose from as the model has itself."""
    plan = random_plan(program, None, fraction=0.5)
    small = fxprune.compile(program, plan, statistics="full")
    report = fxprune.verify(program, plan, small, weights=("random",), batch_sizes=batch_sizes)
    assert report.ok, str(report)
    assert set(small.state_dict()) == set(program.state_dict)
    assert len(plan.widths) == len(fxprune.analyze(model, IMAGES))


def test_hierarchy_and_dynamic_sizes_are_kept() -> None:
    model = named("resnet18")
    program = exported(model, (IMAGES,), dynamic_shapes=({0: BATCH},))
    plan = fxprune.plan(program, channels=0.5)
    small = fxprune.compile(program, plan)
    again = fxprune.compile(program, plan, emit="exported")
    tree = fxprune.compile(program, plan, emit="unflattened")
    assert [str(one) for one in again.range_constraints.values()] == [
        str(one) for one in program.range_constraints.values()
    ]
    assert {name for name, _ in model.named_modules()} <= {name for name, _ in tree.named_modules()}
    file = io.BytesIO()
    torch.export.save(again, file)
    file.seek(0)
    loaded = torch.export.load(file)
    assert fxprune.verify(program, plan, loaded, weights=("random",)).ok
    more = torch.cat((IMAGES, IMAGES, IMAGES))
    with torch.no_grad():
        assert_same(loaded.module()(more), small(more))
        assert_same(tree(IMAGES), small(IMAGES))
        want = small.double()(IMAGES.double())
        torch.testing.assert_close(tree.to(torch.float64)(IMAGES.double()), want, rtol=1e-12, atol=1e-12)
    assert set(tree.state_dict()) == set(program.state_dict)
    assert fxprune.count(again).params == fxprune.count(small, IMAGES).params < fxprune.count(program).params


def test_a_module_is_emitted_as_a_program_with_its_hierarchy() -> None:
    model = named("resnet18")
    plan = fxprune.plan(model, IMAGES, channels=0.5)
    small, tree = fxprune.compile(model, plan), fxprune.compile(model, plan, emit="unflattened")
    assert {name for name, _ in model.named_modules()} <= {name for name, _ in tree.named_modules()}
    assert set(tree.state_dict()) == set(model.state_dict())
    with torch.no_grad():
        assert_same(tree(IMAGES), small(IMAGES))


def test_a_compiled_program_goes_through_onnx() -> None:
    program = exported(named("resnet18"), (IMAGES,), dynamic_shapes=({0: BATCH},))
    again = fxprune.compile(program, fxprune.plan(program, channels=0.5), emit="exported")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        model = torch.onnx.export(again, dynamo=True, verbose=False)
    assert model is not None


@pytest.mark.parametrize("core", [False, True], ids=["plain", "core"])
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_nested_inputs_constants_and_buffers(train: bool, core: bool) -> None:
    program = nested(train=train, core=core)
    before = frozen_state(program)
    plan = fxprune.Plan.from_keep(program, None, {"first": [0, 2, 5]})
    small = fxprune.compile(program, plan)
    report = fxprune.verify(program, plan, small, batch_sizes=(7,))
    assert report.ok, str(report)
    assert set(small.state_dict()) == set(program.state_dict)
    again = fxprune.compile(program, plan, emit="exported")
    assert program.example_inputs is not None
    args, kwargs = program.example_inputs
    assert_same(again.module()(*args, **kwargs), small(*args, **kwargs))
    assert_untouched(program, before)


@pytest.mark.parametrize("core", [False, True], ids=["plain", "core"])
def test_running_statistics_go_on(core: bool) -> None:
    program = nested(train=True, core=core)
    plan = fxprune.Plan.from_keep(program, None, {"first": [0, 2, 5]})
    small, whole = fxprune.compile(program, plan), program.module()
    args, kwargs = program.example_inputs or ((), {})
    small(*args, **kwargs)
    whole(*args, **kwargs)
    for name in ("norm.running_mean", "norm.running_var", "norm.num_batches_tracked"):
        index = plan.kept(name)
        want = whole.state_dict()[name]
        assert_same(small.state_dict()[name], want[index[0]] if index else want)


def test_a_strict_export_is_the_same() -> None:
    model = named("vision_transformer")
    assert_compiles(model, exported(model, (IMAGES,), strict=True))


class Region(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.cond(x.sum() > 0, torch.relu, torch.tanh, (self.first(x),))
        return self.last(y)  # type: ignore[no-any-return]


def test_a_program_with_a_region_is_refused() -> None:
    program = exported(Region(), (torch.randn(2, 4),))
    with pytest.raises(fxprune.CaptureError, match="a region of its own \\(cond\\)"):
        fxprune.analyze(program)


def test_a_program_without_example_inputs_asks_for_them() -> None:
    program = exported(nn.Linear(4, 2), (torch.randn(2, 4),))
    program.example_inputs = None
    with pytest.raises(fxprune.CaptureError, match="holds no example inputs"):
        fxprune.analyze(program)
    assert len(fxprune.analyze(program, torch.randn(2, 4))) == 0


def test_inputs_of_another_nesting_are_refused() -> None:
    inputs = (torch.randn(4, 8), {"p": [torch.randn(4, 3)]}, torch.rand(1, 3))
    with pytest.raises(fxprune.CaptureError, match="not nested as the graph expects"):
        fxprune.analyze(nested(train=False, core=False), inputs)


def test_a_module_has_no_example_inputs_of_its_own() -> None:
    with pytest.raises(fxprune.CaptureError, match="example_inputs is None"):
        fxprune.analyze(nn.Linear(4, 2))


def test_a_program_has_no_class_to_copy() -> None:
    program = exported(nn.Linear(4, 2), (torch.randn(2, 4),))
    with pytest.raises(fxprune.CaptureError, match="no class of its own"):
        fxprune.compile(program, fxprune.plan(program, channels=0.5), emit="module")
