"""A fixed sample of the transformers zoo: exact, with groups for heads, their width, the MLP and the residual."""

from __future__ import annotations

import runpy
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fxprune

pytest.importorskip("transformers")
TOOLS = Path(__file__).parent.parent / "tools"
sys.path.insert(0, str(TOOLS))
try:
    TOOL = runpy.run_path(str(TOOLS / "coverage.py"))
    from zoo import Entry, transformers_zoo
finally:
    sys.path.remove(str(TOOLS))

ENTRIES = {entry.name: entry for entry in transformers_zoo.entries()}
SAMPLE = (
    "albert", "bert", "deberta-v2", "modernbert",
    "gemma2", "gpt2", "llama", "llama (eager)", "mixtral", "phi3",
    "bart", "t5",
    "beit", "convnext", "swinv2", "vit",
    "clip (two towers)", "segformer (segmentation)", "wav2vec2", "whisper",
    "mamba", "mamba2",
)  # fmt: skip


@cache
def built(name: str) -> tuple[nn.Module, Any]:
    model: nn.Module
    model, inputs = ENTRIES[name].build()
    return model, inputs


@pytest.mark.parametrize("name", SAMPLE)
def test_a_random_half_is_exact_and_nearly_all_is_reachable(name: str) -> None:
    entry = Entry(name, ENTRIES[name].kind, lambda: built(name))
    row = TOOL["attempt"](entry)
    assert row.verdict == "exact"
    assert row.reachable >= (0.8 if name == "bart" else 0.9)  # bart's classifier of encoder states is not used
    assert row.left < 0.6


def test_the_zoo_holds_every_kind_of_network() -> None:
    kinds = [entry.kind for entry in ENTRIES.values()]
    for kind in ("encoder", "decoder", "encoder-decoder", "vision", "audio", "state space"):
        assert kinds.count(kind) >= 5, kind


def layer(names: dict[str, int], *prefixes: str) -> dict[str, int]:
    """The groups of one layer, named from there on."""
    return {name.removeprefix(p): size for name, size in names.items() for p in prefixes if name.startswith(p)}


GROUPS: dict[str, tuple[str, dict[str, int]]] = {
    # heads, width of queries and keys, width of values, MLP
    "bert": (
        "bert.encoder.layer.0.",
        {
            "attention.self.query:0": 4,
            "attention.self.query:1": 8,
            "attention.self.value:1": 8,
            "intermediate.dense": 48,
        },
    ),
    "gpt2": ("transformer.h.0.", {"attn.c_attn:0": 4, "attn.c_attn:1": 8, "attn.c_attn:2": 8, "mlp.c_fc": 128}),
    # key heads, query heads of each, pairs of channels that rotate together (in all layers), width of values, MLP
    "llama": (
        "model.layers.0.",
        {
            "self_attn.q_proj:0": 2,
            "self_attn.q_proj:1": 2,
            "self_attn.q_proj:2": 4,
            "self_attn.v_proj:1": 8,
            "mlp.gate_proj": 48,
        },
    ),
    # heads are those of the relative bias, which all layers share
    "t5": (
        "model.encoder.block.0.",
        {
            "layer.0.SelfAttention.relative_attention_bias": 4,
            "layer.0.SelfAttention.q:1": 8,
            "layer.0.SelfAttention.v:1": 8,
            "layer.1.DenseReluDense.wi": 48,
        },
    ),
    "vit": (
        "vit.layers.0.",
        {"attention.q_proj:0": 4, "attention.q_proj:1": 8, "attention.v_proj:1": 8, "mlp.fc1": 48},
    ),
}
RESIDUAL = {
    "bert": "bert.embeddings.word_embeddings",
    "gpt2": "transformer.wte",
    "llama": "model.embed_tokens",
    "t5": "model.encoder.embed_tokens",
    "vit": "vit.embeddings.patch_embeddings.projection",
}


@pytest.mark.parametrize("name", GROUPS)
def test_heads_their_widths_the_mlp_and_the_residual_each_form_a_group(name: str) -> None:
    groups = fxprune.analyze(*built(name))
    names = {group.name: group.size for group in groups}
    prefix, expected = GROUPS[name]
    assert layer(names, prefix) == expected
    assert names[RESIDUAL[name]] == 32


def test_both_channels_that_a_rotary_embedding_turns_go_together() -> None:
    model, inputs = built("llama")
    plan = fxprune.Plan.from_keep(model, inputs, {"model.layers.0.self_attn.q_proj:2": [0, 2]})
    heads_of_eight = [8 * head + channel for head in range(4) for channel in (0, 2, 4, 6)]
    assert plan.kept("model.layers.1.self_attn.q_proj.weight")[0].tolist() == heads_of_eight
    assert plan.kept("model.rotary_emb.inv_freq")[0].tolist() == [0, 2]
    assert fxprune.verify(model, plan, fxprune.compile(model, plan), inputs=inputs, weights=("own",)).ok


def test_a_compiled_model_is_called_like_the_original_and_returns_its_outputs_by_name() -> None:
    model, inputs = built("bert")
    small = fxprune.compile(model, fxprune.plan(model, inputs, channels=0.5))
    output = small(**inputs)
    assert output["logits"].shape == model(**inputs).logits.shape
    assert {node.target for node in small.graph.nodes if node.op == "placeholder"} == set(inputs)


@pytest.mark.parametrize(
    ("name", "tied"),
    [
        ("gpt2", ("transformer.wte.weight", "lm_head.weight")),
        ("t5", tuple(f"model.{one}.weight" for one in ("shared", "encoder.embed_tokens", "lm_head"))),
    ],
)
def test_tied_weights_keep_all_names_that_the_graph_reads(name: str, tied: tuple[str, ...]) -> None:
    model, inputs = built(name)
    small = fxprune.compile(model, fxprune.plan(model, inputs, channels=0.5))
    weights = small.state_dict(keep_vars=True)
    assert [one for one in tied if one not in weights] == []
    assert len({id(weights[one]) for one in tied}) == 1


def test_a_compiled_model_takes_other_batches() -> None:
    model, inputs = built("mixtral")
    plan = fxprune.plan(model, inputs, channels=0.5)
    small = fxprune.compile(model, plan)
    assert fxprune.verify(model, plan, small, inputs=inputs, weights=(), batch_sizes=(3,)).ok
    assert small(torch.ones(5, 16, dtype=torch.int64), torch.ones(5, 16, dtype=torch.int64))["logits"].shape[0] == 5


def test_what_the_graph_was_fixed_to_is_told_with_the_line_that_asked() -> None:
    model, inputs = built("llama")
    plan = fxprune.plan(model, inputs, channels=0.5)
    small = fxprune.compile(model, plan)
    lines = {line.rpartition(":")[0] for line, _, _ in small.meta["baked"]}
    assert lines == {"transformers/masking_utils.py", "transformers/integrations/sdpa_attention.py"}
    notes = fxprune.verify(model, plan, small, inputs=inputs, weights=()).notes
    assert any("fixed to the example inputs at transformers/masking_utils.py:" in note for note in notes)


def test_what_depends_on_values_is_refused_with_the_line_that_asks() -> None:
    model, inputs = built("flaubert")
    with pytest.raises(fxprune.CaptureError, match=r"modeling_flaubert\.py:\d+ needs the values of a tensor"):
        fxprune.analyze(model, inputs)
