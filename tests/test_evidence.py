"""Criteria of data: each is its formula, computed anew, leaves all as it was, and takes what users bring."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from scored import BATCHES, IMAGES, Chain, Residual, randomized, same, scored, state
from torch import Tensor, nn
from torch.nn import functional as F

import fxprune
from fxprune.criteria import (
    NAMES,
    OF_DATA,
    Evidence,
    Magnitude,
    Taylor,
    channel_sums,
    sites_over,
)
from fxprune.criteria.scoring import OF_GRADIENTS

LOSSES = dict.fromkeys(OF_GRADIENTS, F.cross_entropy)
"""By criterion: those that read a loss."""


@pytest.fixture
def model() -> nn.Module:
    return randomized(Residual())


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


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("criterion", OF_DATA)
def test_the_model_and_the_random_numbers_are_as_before(criterion: str, train: bool) -> None:
    model = nn.Sequential(randomized(Residual()), nn.Dropout(0.5), nn.ReLU(inplace=True), nn.Linear(5, 5))
    model.train(train)
    model[0].stem.weight.requires_grad_(False)
    _mean_loss(model).backward()
    before, flags = state(model), [(one.requires_grad, id(one)) for one in model.parameters()]
    modes = [module.training for module in model.modules()]
    with torch.no_grad():
        plans = [
            fxprune.plan(model, IMAGES, channels=0.5, criterion=criterion, batches=BATCHES, loss=LOSSES.get(criterion))
            for _ in range(2)
        ]
    torch.testing.assert_close(state(model), before, rtol=0, atol=0)
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


_FAILURES = {
    "taylor": ((BATCHES[0][0], torch.tensor([7, 7])), "loss(output, targets) raises IndexError on batch 0:"),
    "wanda": (IMAGES[:, :2], "the model does not run on batch 0: "),
}
"""By criterion: a batch that cannot be evaluated, and the error."""


def _plans_of_a_rank(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=2)
    model, found = randomized(Residual()), dict[str, Any]()
    own = BATCHES[:2] if rank == 0 else BATCHES[2:]
    try:
        for criterion, (bad, _) in _FAILURES.items():
            options: dict[str, Any] = {"channels": 0.5, "criterion": criterion, "loss": LOSSES.get(criterion)}
            found[criterion] = fxprune.plan(model, IMAGES, batches=own, **options).keep
            try:
                fxprune.plan(model, IMAGES, batches=BATCHES if rank == 0 else [bad], **options)
            except fxprune.FxPruneError as error:
                found[f"{criterion} fails"] = str(error)
        torch.save(found, f"{folder}/{rank}")
    finally:
        torch.distributed.destroy_process_group()


def test_all_processes_get_the_plan_of_all_batches(tmp_path: Path) -> None:
    mp.spawn(_plans_of_a_rank, (str(tmp_path),), nprocs=2)
    first, other = (torch.load(tmp_path / str(rank)) for rank in range(2))
    for criterion, (_, error) in _FAILURES.items():
        options: dict[str, Any] = {"criterion": criterion, "batches": BATCHES, "loss": LOSSES.get(criterion)}
        alone = fxprune.plan(randomized(Residual()), IMAGES, channels=0.5, **options)
        assert first[criterion] == other[criterion] == alone.keep
        assert first[f"{criterion} fails"].startswith("1 of 2 processes could not evaluate their batches.")
        assert other[f"{criterion} fails"].startswith(error)


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
