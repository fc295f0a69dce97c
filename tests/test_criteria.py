"""Every criterion is its formula, computed anew by loops over channels; those of data leave everything as it was."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn import functional as F

import fxprune
from fxprune.analysis import analyse
from fxprune.criteria import (
    FPGM,
    LAMP,
    NAMES,
    OF_DATA,
    BatchNormScale,
    Evidence,
    GroupNorm,
    Magnitude,
    Scorer,
    Taylor,
    channel_sums,
    name_of,
    sites_over,
)


class Residual(nn.Module):
    """Two convolutions write six channels; one of them, and behind a flatten the head, read them."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.inner = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.head = nn.Linear(width * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.inner(x))
        return self.head(F.avg_pool2d(x, 2).flatten(1))


def randomized(model: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point():
            values = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            tensor.data.copy_(values.abs() + 0.5 if name.endswith("running_var") else values / 2)
    return model.eval()


@pytest.fixture
def model() -> nn.Module:
    return randomized(Residual())


GENERATOR = torch.Generator().manual_seed(1)
IMAGES = torch.randn(2, 3, 8, 8, generator=GENERATOR)
BATCHES = [
    (torch.randn(count, 3, 8, 8, generator=GENERATOR), torch.randint(5, (count,), generator=GENERATOR))
    for count in (2, 3, 1)
]


def scored(
    model: nn.Module, inputs: Any, criterion: Any, batches: Any = None, loss: Any = None, **options: Any
) -> dict[str, Any]:
    """The scores of all channel groups."""
    analysis = analyse(model, inputs, **options)
    evidence = Evidence(analysis, model, inputs, batches=batches, loss=loss, criterion=name_of(criterion))
    score = Scorer(criterion, evidence)
    return {group.name: score(group) for group in analysis.groups}


def same(got: Any, want: Any, tolerance: float = 1e-6) -> None:
    want = torch.as_tensor(want, dtype=torch.float64)
    torch.testing.assert_close(got, want, rtol=tolerance, atol=1e-12 + tolerance * float(want.abs().max()))


def _layers(model: Any, over: str, k: int) -> list[Tensor]:
    """The weights of channel k of the residual network, layer by layer, in the order of the model."""
    stem, norm, inner, head = model.stem, model.norm, model.inner, model.head
    layers = {
        "producers": [stem.weight[k], inner.weight[k]],
        "writers": [stem.weight[k], stem.bias[k], norm.weight[k], norm.bias[k], inner.weight[k]],
        "readers": [inner.weight[:, k], head.weight[:, 16 * k : 16 * k + 16]],
    }
    layers["group"] = [*layers["writers"], *layers["readers"]]
    return [one.detach().double().flatten() for one in layers[over]]


_REDUCE: dict[str, Callable[[list[float]], float]] = {
    "sum": sum,
    "mean": lambda powers: sum(powers) / len(powers),
    "max": max,
    "product": math.prod,
    "first": lambda powers: powers[0],
}


@pytest.mark.parametrize("p", [1, 2, 3.5])
@pytest.mark.parametrize("over", ["producers", "writers", "readers", "group"])
@pytest.mark.parametrize("reduce", list(_REDUCE))
def test_magnitude_is_the_norm_of_a_channels_weights(p: float, over: str, reduce: str, model: nn.Module) -> None:
    if (over, reduce) == ("group", "first"):
        over = "writers"
    got = scored(model, IMAGES, Magnitude(p, over, reduce))["stem"]
    powers = [[float((one.abs() ** p).sum()) for one in _layers(model, over, k)] for k in range(6)]
    same(got, [_REDUCE[reduce](one) ** (1 / p) for one in powers])


@pytest.mark.parametrize(("how", "total"), [("sum", sum), ("mean", lambda s: sum(s) / len(s)), ("max", max)])
def test_magnitudes_are_made_relative_to_their_group(how: str, total: Callable[..., float], model: nn.Module) -> None:
    plain = scored(model, IMAGES, "l2")["stem"].tolist()
    same(scored(model, IMAGES, Magnitude(normalize=how))["stem"], [one / total(plain) for one in plain])


@pytest.mark.parametrize(("name", "p"), [("l1", 1), ("l2", 2)])
def test_magnitudes_by_name_are_over_producers(name: str, p: float, model: nn.Module) -> None:
    assert torch.equal(scored(model, IMAGES, name)["stem"], scored(model, IMAGES, Magnitude(p, "producers"))["stem"])


class Chain(nn.Module):
    """Two batch norms, one of them behind a join, and a linear layer without any."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 5, 1)
        self.inner, self.outer = nn.BatchNorm2d(4), nn.BatchNorm2d(9)
        self.wide, self.head = nn.Linear(9, 7), nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.outer(torch.cat([self.inner(self.left(x)), self.right(x)], 1)).relu()
        return self.head(self.wide(x.mean((2, 3))).relu())


def test_batch_norm_scale_is_the_mean_of_the_scales_of_a_channel() -> None:
    model: Any = randomized(Chain())
    got = scored(model, IMAGES, "bn_scale")
    inner, outer = model.inner.weight.detach().abs(), model.outer.weight.detach().abs()
    same(got["left"], [(inner[k] + outer[k]) / 2 for k in range(4)])
    same(got["right"], [outer[4 + k] for k in range(5)])
    assert got["wide"] is None
    same(scored(model, IMAGES, BatchNormScale("max"))["left"], torch.maximum(inner, outer[:4]))


def test_groups_without_a_score_stay_whole_and_that_is_said() -> None:
    model = randomized(Chain())
    plan = fxprune.plan(model, IMAGES, channels=0.5, criterion="bn_scale")
    assert list(plan.keep) == ["left", "right"]
    assert plan.left_out == {"wide": "criterion bn_scale has no score for it"}
    assert "left out: wide, since criterion bn_scale has no score for it" in str(plan)


def test_batch_norms_that_are_functions_are_found() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Linear(3, 4), nn.Linear(4, 2)
            self.scale, self.shift = nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(4))

        def forward(self, x: Tensor) -> Tensor:
            x = F.batch_norm(self.stem(x), torch.zeros(4), torch.ones(4), weight=self.scale, bias=self.shift)
            return self.head(x)

    model = Functional().eval()
    same(scored(model, torch.randn(2, 3), "bn_scale")["stem"], model.scale.detach().abs())


@pytest.mark.parametrize("top", [None, 2, 100])
@pytest.mark.parametrize("bias", [False, True])
def test_group_norm_is_relative_to_the_mean_of_the_largest(top: int | None, bias: bool, model: nn.Module) -> None:
    sums = [sum(float(one.square().sum()) for one in _layers(model, "group", k)) for k in range(6)]
    if not bias:
        sums = [s - float((model.stem.bias[k] ** 2 + model.norm.bias[k] ** 2).detach()) for k, s in enumerate(sums)]
    largest = sorted(sums)[-min(top or 6, 6) :]
    got = scored(model, IMAGES, GroupNorm(top, bias))["stem"]
    same(got, [one / (sum(largest) / len(largest)) for one in sums])
    if (top, bias) == (None, False):
        assert torch.equal(scored(model, IMAGES, "group_norm")["stem"], got)


def test_lamp_divides_by_what_is_not_smaller(model: nn.Module) -> None:
    squares = [sum(float(one.square().sum()) for one in _layers(model, "producers", k)) for k in range(6)]
    same(scored(model, IMAGES, "lamp")["stem"], [s / sum(other for other in squares if other >= s) for s in squares])


def test_lamp_does_not_see_the_scale_of_a_layer(model: nn.Module) -> None:
    before = scored(model, IMAGES, LAMP())["stem"]
    for layer in (model.stem, model.inner):
        layer.weight.data *= 8
    assert torch.equal(scored(model, IMAGES, LAMP())["stem"], before)
    assert before.max() == 1


def test_fpgm_is_the_sum_of_distances_to_all_other_filters(model: nn.Module) -> None:
    filters = [torch.cat(_layers(model, "producers", k)) for k in range(6)]
    same(scored(model, IMAGES, "fpgm")["stem"], [sum((a - b).norm() for b in filters) for a in filters])


def test_filters_that_are_all_alike_are_at_the_geometric_median(model: nn.Module) -> None:
    for layer in (model.stem, model.inner):
        layer.weight.data[:] = layer.weight.data[:1].clone()
    assert scored(model, IMAGES, FPGM())["stem"].tolist() == [0.0] * 6


def test_random_depends_on_seed_and_group_alone(model: nn.Module) -> None:
    first, again = (scored(model, IMAGES, "random")["stem"] for _ in range(2))
    assert torch.equal(first, again)
    other = scored(randomized(Chain()), IMAGES, "random")
    assert not torch.equal(other["left"], first[:4])


# Criteria of data.


def _mean_loss(model: nn.Module, batches: Any = BATCHES) -> Tensor:
    return torch.stack([F.cross_entropy(model(x), y) for x, y in batches]).mean()


def _gated(model: Any, over: str, k: int, gate: Tensor) -> Tensor:
    """The loss of the residual network where every weight of channel k is times a number."""
    slices = {
        "writers": {"stem.weight": k, "stem.bias": k, "norm.weight": k, "norm.bias": k, "inner.weight": k},
        "readers": {"inner.weight": (slice(None), k), "head.weight": (slice(None), slice(16 * k, 16 * k + 16))},
    }[over]
    values = {name: one.detach().clone() for name, one in model.named_parameters()}
    for name, place in slices.items():
        mask = torch.zeros_like(values[name])
        mask[place] = 1
        values[name] = values[name] * (1 + mask * (gate - 1))
    outputs = [F.cross_entropy(torch.func.functional_call(model, values, (x.double(),)), y) for x, y in BATCHES]
    return torch.stack(outputs).mean()


@pytest.mark.parametrize("over", ["writers", "readers"])
def test_taylor_is_how_the_loss_changes_with_a_channels_weights(over: str, model: nn.Module) -> None:
    got = scored(model, IMAGES, Taylor(over), BATCHES, F.cross_entropy)["stem"]
    wide, step = randomized(Residual()).double(), 1e-5
    for name, tensor in model.state_dict().items():
        wide.state_dict()[name].copy_(tensor)
    ends = [torch.tensor(1 + sign * step, dtype=torch.float64) for sign in (1, -1)]
    losses = [[float(_gated(wide, over, k, end).detach()) for end in ends] for k in range(6)]
    same(got, [abs(above - below) / (2 * step) for above, below in losses])


def test_taylor_over_readers_is_that_of_the_activations_they_read() -> None:
    model: Any = randomized(Chain())
    wide = randomized(Chain()).double()
    seen: list[Tensor] = []
    wide.wide.register_forward_pre_hook(lambda module, args: (seen.append(args[0]), args[0].retain_grad())[:0] or None)
    torch.stack([F.cross_entropy(wide(x.double()), y % 2) for x, y in BATCHES]).sum().backward()
    products = sum((one * one.grad).sum(0).detach() for one in seen) / len(seen)
    got = scored(model, IMAGES, Taylor("readers"), [(x, y % 2) for x, y in BATCHES], F.cross_entropy)
    same(got["left"], products[:4].abs(), 1e-5)
    same(got["right"], products[4:].abs(), 1e-5)


def test_hessian_is_the_empirical_fisher_matrix_times_squared_weights(model: nn.Module) -> None:
    got = scored(model, IMAGES, "hessian", BATCHES, F.cross_entropy)["stem"]
    want = torch.zeros(6, dtype=torch.float64)
    for x, y in BATCHES:
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        for k in range(6):
            for layer, name in (("stem", "weight"), ("stem", "bias"), ("norm", "weight"), ("norm", "bias")):
                weight = getattr(getattr(model, layer), name)
                want[k] += (weight[k] * weight.grad[k]).square().sum().item() / 2 / 3
            want[k] += (model.inner.weight[k] * model.inner.weight.grad[k]).square().sum().item() / 2 / 3
    same(got, want, 1e-4)


def _read(model: nn.Module, names: tuple[str, ...], batches: Any) -> dict[str, Tensor]:
    """The inputs of layers, all batches in one tensor."""
    seen: dict[str, list[Tensor]] = {name: [] for name in names}
    hooks = [
        model.get_submodule(name).register_forward_pre_hook(lambda _, args, name=name: seen[name].append(args[0]))
        for name in names
    ]
    with torch.no_grad():
        for x, _ in batches:
            model(x)
    for hook in hooks:
        hook.remove()
    return {name: torch.cat([one.double() for one in many]) for name, many in seen.items()}


def test_activations_are_those_that_weights_read(model: nn.Module) -> None:
    read = _read(model, ("inner", "head"), BATCHES)
    values = [
        torch.cat([read["inner"][:, k].flatten(), read["head"][:, 16 * k : 16 * k + 16].flatten()]) for k in range(6)
    ]
    got = scored(model, IMAGES, "activation_mean", [x for x, _ in BATCHES])["stem"]
    same(got, [one.abs().mean() for one in values], 1e-5)
    got = scored(model, IMAGES, "activation_variance", [x for x, _ in BATCHES])["stem"]
    same(got, [one.var(correction=0) for one in values], 1e-5)


def test_wanda_is_weights_times_the_norm_of_what_they_read(model: nn.Module) -> None:
    read = _read(model, ("inner", "head"), BATCHES)
    want = []
    for k in range(6):
        score = model.inner.weight[:, k].abs().sum() * read["inner"][:, k].norm()
        for place in range(16 * k, 16 * k + 16):
            score = score + model.head.weight[:, place].abs().sum() * read["head"][:, place].norm()
        want.append(float(score.detach()))
    same(scored(model, IMAGES, "wanda", [x for x, _ in BATCHES])["stem"], want, 1e-5)


class Grouped(nn.Module):
    """Each group of the second convolution reads the same four channels of its own block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.grouped = nn.Conv2d(8, 6, 3, groups=2)
        self.up = nn.ConvTranspose2d(6, 4, 2, groups=2)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.up(self.grouped(self.stem(x).relu()).relu()).relu()).mean((2, 3))


def test_grouped_and_transposed_convolutions_are_read_group_by_group() -> None:
    model: Any = randomized(Grouped())
    stem = [group for group in fxprune.analyze(model, IMAGES) if any(s.parameter == "stem.weight" for s in group.sites)]
    four = next(group.name for group in stem if group.size == 4)
    weight = model.stem.weight.detach().flatten(1).double()
    same(
        scored(model, IMAGES, "l2")[four],
        [(weight[k].square().sum() + weight[4 + k].square().sum()).sqrt() for k in range(4)],
    )
    readers = scored(model, IMAGES, Magnitude(1, "readers"))[four]
    same(readers, model.grouped.weight.detach().double().abs().sum((0, 2, 3)))
    read = _read(model, ("grouped", "up"), BATCHES)
    norms = [read["grouped"][:, [k, 4 + k]].norm() for k in range(4)]
    same(scored(model, IMAGES, "wanda", BATCHES)[four], [float(readers[k]) * norms[k] for k in range(4)], 1e-5)
    inner = next(group for group in fxprune.analyze(model, IMAGES) if group.size == 3)
    parts = model.up.weight.detach().double()
    summed = [parts[k].abs().sum() + parts[3 + k].abs().sum() for k in range(3)]
    same(scored(model, IMAGES, Magnitude(1, "readers"))[inner.name], summed)
    each = [sum(parts[p].abs().sum() * read["up"][:, p].norm() for p in (k, 3 + k)) for k in range(3)]
    same(scored(model, IMAGES, "wanda", BATCHES)[inner.name], each, 1e-5)


class Attention(nn.Module):
    """Two heads of five."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(6, 10) for _ in range(3))
        self.out = nn.Linear(10, 6)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (2, 5)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def test_heads_are_scored_over_all_of_their_positions() -> None:
    model: Any = randomized(Attention())
    tokens = torch.randn(2, 4, 6)
    groups = {group.name: group for group in fxprune.analyze(model, tokens)}
    query = next(n for n, g in groups.items() if g.size == 5 and any(s.parameter == "q.weight" for s in g.sites))
    value = next(n for n, g in groups.items() if g.size == 5 and any(s.parameter == "v.weight" for s in g.sites))
    q, k, v, out = (getattr(model, name).weight.detach().double() for name in ("q", "k", "v", "out"))
    same(scored(model, tokens, "l1")[value], [v[[d, 5 + d]].abs().sum() for d in range(5)])
    same(scored(model, tokens, "l1")[query], [sum(w[[d, 5 + d]].abs().sum() for w in (q, k)) for d in range(5)])
    read = _read(model, ("q", "out"), [(tokens, None)])
    got = scored(model, tokens, "wanda", [tokens])
    columns = [sum(out[:, p].abs().sum() * read["out"][..., p].norm() for p in (d, 5 + d)) for d in range(5)]
    same(got[value], columns, 1e-5)
    norms = read["q"].flatten(0, 1).norm(dim=0)
    same(got[query], [sum((w[[d, 5 + d]].abs() * norms).sum() for w in (q, k)) for d in range(5)], 1e-5)
    written = torch.cat([getattr(model, name)(tokens).detach().unflatten(-1, (2, 5)) for name in ("q", "k")]).double()
    same(scored(model, tokens, "activation_mean", [tokens])[query], written.abs().mean((0, 1, 2)), 1e-5)


def test_joined_channels_are_found_behind_the_others() -> None:
    model: Any = randomized(Chain())
    read = _read(model, ("wide",), BATCHES)["wide"]
    got = scored(model, IMAGES, "activation_mean", BATCHES)
    same(got["left"], read[:, :4].abs().mean(0), 1e-5)
    same(got["right"], read[:, 4:].abs().mean(0), 1e-5)
    weight = model.wide.weight.detach().double()
    same(scored(model, IMAGES, Magnitude(1, "readers"))["right"], weight[:, 4:].abs().sum(0))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(20, 8), nn.Linear(8, 20, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(self.embed(tokens))


def test_a_tied_weight_counts_once_with_the_gradient_of_all_its_uses() -> None:
    model: Any = randomized(Tied())
    tokens, targets = torch.randint(20, (2, 6)), torch.randint(20, (12,))
    weight = model.embed.weight
    same(scored(model, tokens, Magnitude(1, "group"))["embed"], weight.detach().double().abs().sum(0))

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output.flatten(0, 1), target)

    got = scored(model, tokens, "taylor", [(tokens, targets)], loss)["embed"]
    loss(model(tokens), targets).backward()
    same(got, (weight * weight.grad).sum(0).abs().detach(), 1e-4)


@pytest.mark.parametrize("criterion", list(NAMES))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_weights_score_as_the_same_numbers_in_float64(criterion: str, dtype: torch.dtype) -> None:
    narrow, wide = randomized(Residual()).to(dtype), randomized(Residual()).to(dtype).double()
    wide.norm.eps = narrow.norm.eps
    batches = [(x.to(dtype), y) for x, y in BATCHES]
    got = scored(narrow, IMAGES.to(dtype), criterion, batches, F.cross_entropy)["stem"]
    batches = [(x.double(), y) for x, y in batches]
    want = scored(wide, IMAGES.double(), criterion, batches, F.cross_entropy)["stem"]
    same(got, want, 1e-5)


@pytest.mark.parametrize(
    "criterion", ["l1", "l2", "taylor", "hessian", "activation_mean", "activation_variance", "wanda"]
)
def test_a_dead_channel_scores_zero(criterion: str) -> None:
    model: Any = randomized(Grouped())
    model.stem = nn.Conv2d(3, 8, 1)
    model.grouped = nn.Conv2d(8, 6, 3)
    model = randomized(model)
    for tensor in (model.stem.weight, model.stem.bias):
        tensor.data[2] = 0
    got = scored(model, IMAGES, criterion, [(x, y % 2) for x, y in BATCHES], F.cross_entropy)["stem"]
    assert (got == 0).tolist() == [k == 2 for k in range(8)]


def test_a_constant_channel_has_no_variance() -> None:
    chain: Any = randomized(Chain())
    chain.outer.bias.data[:] = 0.3
    chain.outer.weight.data[1] = 0
    got = scored(chain, IMAGES, "activation_variance", BATCHES)["left"]
    assert (got == 0).tolist() == [False, True, False, False]


def _state(model: nn.Module) -> dict[str, Any]:
    return {
        "values": {name: one.clone() for name, one in model.state_dict().items()},
        "gradients": [None if one.grad is None else one.grad.clone() for one in model.parameters()],
        "random": torch.get_rng_state(),
    }


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("criterion", OF_DATA)
def test_the_model_and_the_random_numbers_are_as_before(criterion: str, train: bool) -> None:
    model = nn.Sequential(randomized(Residual()), nn.Dropout(0.5), nn.ReLU(inplace=True), nn.Linear(5, 5))
    model.train(train)
    model[0].stem.weight.requires_grad_(False)
    _mean_loss(model).backward()
    before, flags = _state(model), [(one.requires_grad, id(one)) for one in model.parameters()]
    modes = [module.training for module in model.modules()]
    with torch.no_grad():
        plans = [
            fxprune.plan(model, IMAGES, channels=0.5, criterion=criterion, batches=BATCHES, loss=F.cross_entropy)
            for _ in range(2)
        ]
    torch.testing.assert_close(_state(model), before, rtol=0, atol=0)
    assert [(one.requires_grad, id(one)) for one in model.parameters()] == flags
    assert [module.training for module in model.modules()] == modes
    assert plans[0].keep == plans[1].keep


@pytest.mark.parametrize("criterion", list(NAMES))
def test_scores_are_the_same_on_every_thread_count(criterion: str) -> None:
    model, threads = randomized(Residual(width=64)), torch.get_num_threads()
    batches = [(torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 5)]
    found = []
    try:
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            found.append(scored(model, IMAGES, criterion, batches, F.cross_entropy)["stem"])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def _plan_of_a_rank(rank: int, folder: str, criterion: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=2)
    model = randomized(Residual())
    own = BATCHES[:2] if rank == 0 else BATCHES[2:]
    try:
        plan = fxprune.plan(model, IMAGES, channels=0.5, criterion=criterion, batches=own, loss=F.cross_entropy)
        torch.save(plan.keep, f"{folder}/{criterion}-{rank}")
        bad = BATCHES if rank == 0 else [(BATCHES[0][0], torch.tensor([7, 7]))]
        try:
            fxprune.plan(model, IMAGES, channels=0.5, criterion=criterion, batches=bad, loss=F.cross_entropy)
        except fxprune.PlanError as error:
            Path(f"{folder}/error-{rank}").write_text(str(error))
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("criterion", ["taylor", "wanda"])
def test_all_processes_get_the_plan_of_all_batches(criterion: str, tmp_path: Path) -> None:
    mp.spawn(_plan_of_a_rank, (str(tmp_path), criterion), nprocs=2)
    alone = fxprune.plan(
        randomized(Residual()), IMAGES, channels=0.5, criterion=criterion, batches=BATCHES, loss=F.cross_entropy
    )
    for rank in range(2):
        assert torch.load(tmp_path / f"{criterion}-{rank}") == alone.keep
    assert (tmp_path / "error-0").read_text().startswith("1 of 2 processes could not evaluate their batches.")
    assert (tmp_path / "error-1").read_text().startswith("loss(output, targets) raises IndexError on batch 0:")


# What users bring.


def _generator() -> Iterator[Any]:
    yield from BATCHES


def _loader() -> Any:
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*map(torch.cat, zip(*BATCHES, strict=True))))


@pytest.mark.parametrize("criterion", OF_DATA)
def test_any_iterable_of_pairs_is_data(criterion: str, model: nn.Module) -> None:
    want = scored(model, IMAGES, criterion, BATCHES, F.cross_entropy)["stem"]
    assert torch.equal(scored(model, IMAGES, criterion, _generator(), F.cross_entropy)["stem"], want)
    nested = [([x], y) for x, y in BATCHES]
    assert torch.equal(scored(model, IMAGES, criterion, nested, F.cross_entropy)["stem"], want)
    keywords = [({"x": x}, y) for x, y in BATCHES]
    assert torch.equal(scored(model, {"x": IMAGES}, criterion, keywords, F.cross_entropy)["stem"], want)
    rest = [{"x": x, "labels": y} for x, y in BATCHES]

    def loss(output: Tensor, targets: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(output, targets["labels"])

    assert torch.equal(scored(model, {"x": IMAGES}, criterion, rest, loss)["stem"], want)


def test_a_loader_is_data_with_and_without_targets(model: nn.Module) -> None:
    first = scored(model, IMAGES, "activation_mean", _loader())["stem"]
    inputs = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.cat([x for x, _ in BATCHES])))
    assert torch.equal(first, scored(model, IMAGES, "activation_mean", inputs)["stem"])
    same(first, scored(model, IMAGES, "activation_mean", BATCHES)["stem"])


def test_the_loss_sees_the_models_own_precision(model: nn.Module) -> None:
    seen = []

    def loss(output: Tensor, targets: Tensor) -> Tensor:
        seen.append((output.dtype, torch.get_default_dtype()))
        return F.cross_entropy(output, targets, weight=torch.ones(5))

    scored(model, IMAGES, "taylor", BATCHES, loss)
    assert seen == [(torch.float32, torch.float32)] * 3


def test_a_progress_bar_is_shown_where_there_is_a_terminal(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []

    def bar(iterator: Any, title: str, total: int, **options: Any) -> Any:
        shown.append((title, total, options["disable"]))
        return iterator

    monkeypatch.setattr("fxprune.batches.tqdm", bar)
    scored(model, IMAGES, "wanda", BATCHES)
    assert shown == [("criterion", 3, None)]


def test_a_criterion_of_ones_own_gets_the_group_and_the_evidence_if_it_asks(model: nn.Module) -> None:
    def saliency(group: fxprune.ChannelGroup, evidence: Evidence) -> Tensor:
        scores = torch.zeros(group.size, dtype=torch.float64)
        for site in sites_over(group, "writers"):
            scores += channel_sums(group, site, site.tensor.detach() * evidence.gradient(site))
        return scores.abs()

    want = scored(model, IMAGES, "taylor", BATCHES, F.cross_entropy)["stem"]
    same(scored(model, IMAGES, saliency, BATCHES, F.cross_entropy)["stem"], want)
    plan = fxprune.plan(model, IMAGES, channels=0.5, criterion=saliency, batches=BATCHES, loss=F.cross_entropy)
    assert set(plan.keep["stem"]) == set(want.topk(3).indices.tolist())


def test_gradients_are_gathered_where_code_takes_its_way_by_values() -> None:
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(8, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.body(x)
            return self.head(x.relu()) if x.mean() > 0 else self.head(-x)

    model = randomized(Gate())
    batches = [(torch.randn(3, 8), torch.tensor([0, 1, 1])) for _ in range(4)]
    got = scored(model, batches[0][0], Taylor("readers"), batches, F.cross_entropy, emit="module")["body"]
    _mean_loss(model, batches).backward()
    same(got, (model.head.weight * model.head.weight.grad).sum(0).abs().detach(), 1e-5)
    with pytest.raises(fxprune.PlanError, match="criterion wanda cannot measure activations: the model's code takes"):
        fxprune.plan(model, batches[0][0], channels=0.5, criterion="wanda", batches=batches, emit="module")


def test_an_exported_program_is_scored_on_its_outputs_in_their_nesting() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(8, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"logits": self.head(self.body(x).relu())}

    def loss(output: dict[str, Tensor], targets: Tensor) -> Tensor:
        return F.cross_entropy(output["logits"], targets)

    model, batches = randomized(Two()), [(torch.randn(3, 8), torch.tensor([0, 1, 1]))]
    batch = torch.export.Dim("batch")
    program = torch.export.export(model, (torch.randn(2, 8),), dynamic_shapes=({0: batch},))
    plan = fxprune.plan(model, batches[0][0], channels=0.5, criterion="taylor", batches=batches, loss=loss)
    exported = fxprune.plan(program, channels=0.5, criterion="taylor", batches=batches, loss=loss)
    assert plan.keep == exported.keep


def test_a_language_model_is_scored_by_its_own_loss() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, use_cache=False
    )
    model = transformers.LlamaForCausalLM(config).eval()
    tokens = {"input_ids": torch.randint(40, (2, 8))}
    batches = [{"input_ids": torch.randint(40, (2, 8)), "labels": torch.randint(40, (2, 8))} for _ in range(2)]

    def loss(output: Any, targets: dict[str, Tensor]) -> Tensor:
        assert output[0] is output.logits is output["logits"]
        return F.cross_entropy(output.logits.flatten(0, 1), targets["labels"].flatten())

    got = scored(model, tokens, Taylor("readers"), batches, loss)["model.layers.0.mlp.gate_proj"]
    total = sum(loss(model(input_ids=batch["input_ids"]), batch) for batch in batches) / 2
    total.backward()
    weight = model.model.layers[0].mlp.down_proj.weight
    same(got, (weight * weight.grad).sum(0).abs().detach(), 1e-4)
    assert not any(one is None for one in scored(model, tokens, "wanda", batches).values())


def _nan(group: fxprune.ChannelGroup) -> Tensor:
    return torch.full((group.size,), torch.nan)


_DATA: dict[str, Any] = {"batches": BATCHES, "loss": F.cross_entropy}
_REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": (
        {"criterion": "l3"},
        "criterion 'l3' is unknown, expected one of l1, l2, bn_scale,",
    ),
    "class": ({"criterion": Taylor}, "criterion <class 'fxprune.criteria.sensitivity.Taylor'> is unknown"),
    "number": ({"criterion": 3}, "criterion 3 is unknown"),
    "nan": ({"criterion": _nan}, "criterion _nan gave NaN for 6 of 6 channels."),
    "shape": (
        {"criterion": lambda group: torch.ones(1)},
        "criterion <lambda> gave scores of shape (1,), expected (6,).",
    ),
    "text": ({"criterion": lambda group: "high"}, "criterion <lambda> gave a str, expected scores of shape (6,)."),
    "nothing": ({"criterion": lambda group: None}, "criterion <lambda> has no score for any of the 1 channel groups."),
    "no data": ({"criterion": "wanda"}, "criterion wanda needs data, got batches=None."),
    "no data either": (
        {"criterion": "taylor", "loss": F.cross_entropy},
        "criterion taylor needs data, got batches=None.",
    ),
    "no loss": ({"criterion": "hessian", "batches": BATCHES}, "criterion hessian needs a loss, got loss=None."),
    "empty": ({"criterion": "taylor", **_DATA, "batches": []}, "batches is empty, expected at least one batch."),
    "number of batches": ({"criterion": "wanda", "batches": 3}, "batches is a int, expected an iterable of inputs or"),
    "triple": (
        {"criterion": "wanda", "batches": [(IMAGES, IMAGES, IMAGES)]},
        "batch 0 is a tuple of 3 (Tensor, Tensor, Tensor), expected the model's inputs (1 argument) or (inputs,",
    ),
    "wrong size": ({"criterion": "wanda", "batches": [IMAGES, IMAGES[:, :2]]}, "the model does not run on batch 1: "),
    "vector": (
        {"criterion": "taylor", "batches": BATCHES, "loss": lambda out, y: F.cross_entropy(out, y, reduction="none")},
        "loss gave a tensor of shape (2,), expected a scalar tensor.",
    ),
    "float": (
        {"criterion": "taylor", "batches": BATCHES, "loss": lambda out, y: 3.0},
        "loss gave 3.0, expected a scalar",
    ),
    "detached": (
        {"criterion": "taylor", "batches": BATCHES, "loss": lambda out, y: out.detach().sum()},
        "the loss does not depend on the weights",
    ),
    "infinite": (
        {"criterion": "taylor", "batches": BATCHES, "loss": lambda out, y: out.sum() * torch.inf},
        "loss gave ",
    ),
    "raises": (
        {"criterion": "taylor", "batches": BATCHES, "loss": F.mse_loss},
        "loss(output, targets) raises RuntimeError on batch 0: The size of tensor a",
    ),
}


@pytest.mark.parametrize("case", list(_REFUSALS))
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_a_criterion_that_does_not_work_is_refused(case: str, model: nn.Module) -> None:
    options, first = _REFUSALS[case]
    before = _state(model)
    with pytest.raises(fxprune.FxPruneError) as caught:
        fxprune.plan(model, IMAGES, channels=0.5, **options)
    assert str(caught.value).startswith(first)
    torch.testing.assert_close(_state(model), before, rtol=0, atol=0)
    if case in ("nan", "shape", "text"):
        assert "at      channel group 'stem'" in str(caught.value)


@pytest.mark.parametrize(
    ("make", "first"),
    [
        (lambda: Magnitude(p=0), "p=0, expected a positive number."),
        (lambda: Magnitude(over="all"), "over='all', expected one of 'producers', 'writers', 'readers', 'group'."),
        (lambda: Magnitude(reduce="min"), "reduce='min', expected one of 'sum', 'mean', 'max', 'product', 'first'."),
        (lambda: Magnitude(normalize="l2"), "normalize='l2', expected one of None, 'sum', 'mean', 'max', 'lamp'."),
        (lambda: GroupNorm(top=0), "top=0, expected None or a positive integer."),
        (lambda: Taylor("all"), "over='all', expected one of"),
    ],
)
def test_an_option_out_of_range_is_refused(make: Callable[[], Any], first: str) -> None:
    with pytest.raises(fxprune.PlanError) as caught:
        make()
    assert str(caught.value).startswith(first)


def test_weights_without_values_are_refused() -> None:
    with torch.device("meta"):
        model = Residual().eval()
    with pytest.raises(fxprune.PlanError, match=r"'stem.weight' is a meta tensor, expected weights with values"):
        fxprune.plan(model, IMAGES.to("meta"), channels=0.5)
