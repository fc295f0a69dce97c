"""Settings that follow sizes: configurations of transformers models that keep their class."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from networks import randomize
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5EncoderModel,
    ViTConfig,
    ViTForImageClassification,
)

import fxprune

TOKENS = torch.randint(0, 99, (2, 12), generator=torch.Generator().manual_seed(0))


def llama() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=99,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=64,
        use_cache=False,
    )
    return ready(LlamaForCausalLM(config))


def ready(model: Any) -> Any:
    randomize(model, 0)
    return model.eval()


def pruned(model: nn.Module, inputs: Any, **options: Any) -> tuple[fxprune.Plan, Any]:
    plan = fxprune.plan(model, inputs, channels=0.5, emit="module", **options)
    small = fxprune.compile(model, plan)
    fxprune.verify(model, plan, small, inputs=inputs, weights=("own",)).raise_if_wrong()
    return plan, small


def test_a_configuration_builds_the_smaller_model() -> None:
    model = llama()
    before = model.config.to_dict()
    _, small = pruned(model, {"input_ids": TOKENS})
    config = small.config
    assert type(small) is LlamaForCausalLM and model.config.to_dict() == before
    assert (config.hidden_size, config.intermediate_size, config.head_dim) == (32, 48, 4)
    assert (config.num_attention_heads, config.num_key_value_heads) == (8, 4)
    rebuilt = LlamaForCausalLM(config)
    rebuilt.load_state_dict(small.state_dict())
    assert "built anew, scales and tables may differ: save the module itself" in small._fxprune["notes"][-1]
    for one, other in zip(rebuilt.model.layers, small.model.layers, strict=True):
        one.self_attn.scaling = other.self_attn.scaling  # that of the original's head width
    rebuilt.model.rotary_emb.inv_freq = small.model.rotary_emb.inv_freq  # the kept half of the frequencies
    assert torch.equal(rebuilt.eval()(TOKENS).logits, small(TOKENS).logits)


def test_heads_are_counted_anew() -> None:
    model = llama()
    heads = fxprune.analyze(model, {"input_ids": TOKENS}, emit="module")
    keep = {group.name: [0, 2] for group in heads if group.name.endswith("q_proj:0")}
    assert len(keep) == 2
    plan = fxprune.Plan.from_keep(model, {"input_ids": TOKENS}, keep, emit="module")
    small = fxprune.compile(model, plan)
    fxprune.verify(model, plan, small, weights=("own",)).raise_if_wrong()
    assert (small.config.num_attention_heads, small.config.num_key_value_heads) == (4, 2)
    assert small.config.head_dim == 8
    assert LlamaForCausalLM(small.config).load_state_dict(small.state_dict())


def test_generation_goes_on_as_the_forward_says() -> None:
    _, small = pruned(llama(), {"input_ids": TOKENS})
    mask = torch.ones_like(TOKENS)
    generated = small.generate(TOKENS, attention_mask=mask, max_new_tokens=4, do_sample=False, pad_token_id=0)
    tokens = TOKENS
    for _ in range(4):
        tokens = torch.cat([tokens, small(tokens).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(generated, tokens)
    cached = small.generate(
        TOKENS, attention_mask=mask, max_new_tokens=4, do_sample=False, use_cache=True, pad_token_id=0
    )
    assert torch.equal(cached, tokens)


def test_of_two_settings_that_make_a_size_the_right_one_follows() -> None:
    config = T5Config(vocab_size=99, d_model=64, d_kv=8, d_ff=96, num_layers=2, num_heads=8, use_cache=False)
    _, small = pruned(ready(T5EncoderModel(config)), {"input_ids": TOKENS})
    bias = small.encoder.block[0].layer[0].SelfAttention.relative_attention_bias
    assert small.config.num_heads == bias.weight.shape[1] == 4
    assert (small.config.d_kv, small.config.d_ff, small.config.d_model) == (8, 48, 64)


def test_vision_settings_follow() -> None:
    config = ViTConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=8, image_size=32, patch_size=8
    )
    _, small = pruned(ready(ViTForImageClassification(config)), {"pixel_values": torch.randn(2, 3, 32, 32)})
    assert (small.config.hidden_size, small.config.intermediate_size) == (32, 48)


def test_sizes_that_no_setting_describes_are_told() -> None:
    config = GPT2Config(vocab_size=99, n_embd=64, n_layer=2, n_head=8, n_positions=64, eos_token_id=0, bos_token_id=0)
    model = ready(GPT2LMHeadModel(config))
    model.config.use_cache = False
    plan = fxprune.plan(model, {"input_ids": TOKENS}, channels=0.5, emit="module", ignore=("transformer.h.0.mlp.c_fc",))
    small = fxprune.compile(model, plan)
    fxprune.verify(model, plan, small, weights=("own",)).raise_if_wrong()
    assert any(
        "config cannot describe the sizes of the smaller GPT2LMHeadModel" in note for note in small._fxprune["notes"]
    )


@pytest.mark.parametrize("emit", ["graph", "module"])
def test_both_kinds_of_result_compute_the_same(emit: str) -> None:
    model = llama()
    plan = fxprune.plan(model, {"input_ids": TOKENS}, channels=0.5, emit="module")
    small = fxprune.compile(model, plan, emit=emit)
    output = small(input_ids=TOKENS) if emit == "module" else small(TOKENS)
    again = fxprune.compile(model, plan)(input_ids=TOKENS)
    assert torch.allclose(output["logits"], again["logits"], atol=1e-5)
