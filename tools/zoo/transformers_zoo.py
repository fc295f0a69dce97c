"""Architectures of transformers, each built from a tiny configuration with random weights: nothing is downloaded.

An architecture is taken with a head (a classifier, a language model), since the width of a bare backbone is its
output's, and outputs stay whole. For the same reason an encoder-decoder, whose call also returns the states of its
encoder, is asked for its logits alone. Caches are off: a cache is an output too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
import transformers
from torch import nn

from zoo import Entry, randomize

Options = Mapping[str, Any]

_TEXT = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
}
_DECODER = {**_TEXT, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2, "use_cache": False}
_GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40, "vocab_size": 96, "use_cache": False}
_GPT |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_SEQ2SEQ = {
    "vocab_size": 96,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "forced_eos_token_id": None,
    "use_cache": False,
}
_T5 = {
    "vocab_size": 96,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "pad_token_id": 0,
    "decoder_start_token_id": 0,
    "use_cache": False,
}
_IMAGE = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
_PYRAMID = {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
_STAGES = {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [2, 2], "layer_type": "basic"}
_SOUND = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": (16, 16, 16),
    "conv_stride": (4, 2, 2),
    "conv_kernel": (8, 3, 3),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": 32,
    "num_feat_extract_layers": 3,
}
_STATE = {
    "vocab_size": 96,
    "hidden_size": 32,
    "state_size": 8,
    "num_hidden_layers": 2,
    "time_step_rank": 4,
    "use_cache": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_TOWERS = {
    "text_config": {**_TEXT, "projection_dim": 24, "bos_token_id": 1, "eos_token_id": 2},
    "vision_config": {**_IMAGE, "projection_dim": 24},
}

# What is not in a family's common options, by model type.
_ENCODERS: dict[str, Options] = {
    "albert": {"embedding_size": 24},
    "bert": {},
    "big_bird": {"attention_type": "original_full"},
    "camembert": {},
    "canine": {"num_hash_buckets": 32, "local_transformer_stride": 8, "downsampling_rate": 2},
    "convbert": {"embedding_size": 32, "head_ratio": 2, "conv_kernel_size": 3},
    "data2vec-text": {},
    "deberta": {"pos_att_type": ["c2p", "p2c"], "relative_attention": True, "max_relative_positions": 16},
    "deberta-v2": {"pos_att_type": ["c2p", "p2c"], "relative_attention": True, "position_buckets": 8},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48},
    "electra": {"embedding_size": 24},
    "ernie": {},
    "esm": {"position_embedding_type": "rotary", "mask_token_id": 3},
    "eurobert": {"num_key_value_heads": 2},
    "flaubert": {"emb_dim": 32, "n_layers": 2, "n_heads": 4},
    "fnet": {"use_tpu_fourier_optimizations": False},
    "ibert": {},
    "layoutlm": {},
    "lilt": {"channel_shrink_ratio": 2, "hidden_size": 48, "intermediate_size": 64},
    "longformer": {"attention_window": 8},
    "luke": {"entity_vocab_size": 10, "entity_emb_size": 16},
    "megatron-bert": {},
    "mobilebert": {"embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16},
    "modernbert": {"global_attn_every_n_layers": 2, "local_attention": 8},
    "mpnet": {},
    "nystromformer": {"num_landmarks": 16, "segment_means_seq_len": 16},
    "rembert": {"input_embedding_size": 24, "output_embedding_size": 24},
    "roberta": {},
    "roberta-prelayernorm": {},
    "roc_bert": {"pronunciation_vocab_size": 20, "shape_vocab_size": 20},
    "roformer": {"embedding_size": 24},
    "squeezebert": {"embedding_size": 32},
    "xlm": {"emb_dim": 32, "n_layers": 2, "n_heads": 4},
    "xlm-roberta": {},
    "xmod": {"languages": ["en"], "default_language": "en"},
    "yoso": {"use_expectation": True},
}
_DECODERS: dict[str, Options] = {
    "apertus": {},
    "arcee": {},
    "bamba": {
        "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8, "mamba_chunk_size": 4,
        "attn_layer_indices": [1],
    },
    "biogpt": {},
    "bitnet": {},
    "bloom": {"n_layer": 2, "n_head": 4},
    "codegen": {**_GPT, "rotary_dim": 4},
    "cohere": {},
    "cohere2": {"sliding_window": 4},
    "ctrl": {**_GPT, "dff": 48},
    "deepseek_v2": {
        "kv_lora_rank": 8, "q_lora_rank": 12, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8,
        "n_routed_experts": 4, "num_experts_per_tok": 2, "topk_method": "greedy", "moe_intermediate_size": 16,
        "first_k_dense_replace": 1, "num_key_value_heads": 4,
    },
    "deepseek_v3": {
        "kv_lora_rank": 8, "q_lora_rank": 12, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8,
        "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "moe_intermediate_size": 16,
        "first_k_dense_replace": 1, "num_key_value_heads": 4,
    },
    "diffllama": {},
    "ernie4_5": {},
    "exaone4": {"sliding_window": 4, "sliding_window_pattern": 2},
    "falcon": {"num_kv_heads": 2, "new_decoder_architecture": True},
    "falcon_h1": {
        "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8,
        "mamba_chunk_size": 4,
    },
    "gemma": {"head_dim": 8},
    "gemma2": {"head_dim": 8, "sliding_window": 4, "query_pre_attn_scalar": 8},
    "gemma3_text": {"head_dim": 8, "sliding_window": 4, "query_pre_attn_scalar": 8},
    "glm": {"head_dim": 8},
    "glm4": {"head_dim": 8},
    "gpt2": _GPT,
    "gpt_bigcode": _GPT,
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "num_layers": 2, "num_heads": 4, "window_size": 4},
    "gpt_neox": {},
    "gpt_neox_japanese": {},
    "gpt_oss": {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 4},
    "gptj": {**_GPT, "rotary_dim": 4},
    "granite": {},
    "granitemoe": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "helium": {"head_dim": 8},
    "jais2": {},
    "jamba": {
        "num_experts": 2, "num_experts_per_tok": 1, "attn_layer_period": 2, "attn_layer_offset": 1,
        "expert_layer_period": 2, "expert_layer_offset": 1, "mamba_d_state": 8, "mamba_dt_rank": 4,
        "use_mamba_kernels": False,
    },
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "llama": {},
    "llama4_text": {"head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1, "intermediate_size_mlp": 48},
    "minicpm3": {
        "kv_lora_rank": 8, "q_lora_rank": 12, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8,
        "num_key_value_heads": 4,
    },
    "mistral": {"sliding_window": 4},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 40},
    "nanochat": {},
    "nemotron": {},
    "olmo": {},
    "olmo2": {},
    "olmo3": {"sliding_window": 4},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "openai-gpt": _GPT,
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "persimmon": {},
    "phi": {},
    "phi3": {},
    "phimoe": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2": {},
    "qwen2_moe": {
        "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16,
    },
    "qwen3": {"head_dim": 8},
    "qwen3_moe": {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "qwen3_next": {
        "head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
        "linear_value_head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16, "layer_types": ["linear_attention", "full_attention"],
    },
    "seed_oss": {"head_dim": 8},
    "smollm3": {},
    "stablelm": {},
    "starcoder2": {},
    "xglm": {"d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 48},
}  # fmt: skip
_ENCODER_DECODERS: dict[str, Options] = {
    "bart": _SEQ2SEQ,
    "bigbird_pegasus": {**_SEQ2SEQ, "attention_type": "original_full"},
    "blenderbot": _SEQ2SEQ,
    "blenderbot-small": _SEQ2SEQ,
    "led": {
        **_SEQ2SEQ, "attention_window": 4, "max_encoder_position_embeddings": 40, "max_decoder_position_embeddings": 40,
    },
    "longt5": {**_T5, "local_radius": 4},
    "m2m_100": _SEQ2SEQ,
    "marian": _SEQ2SEQ,
    "mbart": _SEQ2SEQ,
    "mt5": _T5,
    "mvp": _SEQ2SEQ,
    "nllb-moe": {**_SEQ2SEQ, "num_experts": 2, "expert_capacity": 8},
    "pegasus": _SEQ2SEQ,
    "pegasus_x": {**_SEQ2SEQ, "block_size": 4, "num_global_tokens": 4},
    "plbart": _SEQ2SEQ,
    "switch_transformers": {**_T5, "num_experts": 4, "expert_capacity": 8},
    "t5": _T5,
    "umt5": _T5,
}  # fmt: skip
_VISION: dict[str, Options] = {
    "beit": {**_IMAGE, "use_relative_position_bias": True},
    "bit": {**_STAGES, "layer_type": "preactivation", "num_groups": 4},
    "convnext": {"hidden_sizes": [16, 32], "depths": [2, 2], "num_stages": 2},
    "convnextv2": {"hidden_sizes": [16, 32], "depths": [2, 2], "num_stages": 2},
    "cvt": {"image_size": 64, "embed_dim": [16, 32, 32], "num_heads": [1, 2, 4], "depth": [1, 2, 3]},
    "data2vec-vision": _IMAGE,
    "deit": _IMAGE,
    "dinov2": _IMAGE,
    "dinov2_with_registers": _IMAGE,
    "efficientnet": {"image_size": 32, "width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 320},
    "focalnet": {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "focal_levels": [2, 2]},
    "hiera": {"image_size": [64, 64], "embed_dim": 16, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 8]},
    "ijepa": _IMAGE,
    "levit": {"image_size": 64, "hidden_sizes": [16, 32, 32], "num_attention_heads": [2, 2, 4], "depths": [2, 2, 2],
              "key_dim": [8, 8, 8]},
    "mobilenet_v1": {"image_size": 32, "depth_multiplier": 0.25},
    "mobilenet_v2": {"image_size": 32, "depth_multiplier": 0.25},
    "mobilevit": {"image_size": 32, "hidden_sizes": [24, 32, 32], "neck_hidden_sizes": [8, 8, 16, 24, 24, 24, 48],
                  "num_attention_heads": 4},
    "mobilevitv2": {"image_size": 64, "width_multiplier": 0.5},
    "poolformer": {"hidden_sizes": [16, 32, 32, 32], "depths": [1, 1, 1, 1]},
    "pvt": {"image_size": 64, "hidden_sizes": [16, 32, 32, 32], "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 2, 4, 4]},
    "pvt_v2": {"image_size": 64, "hidden_sizes": [16, 32, 32, 32], "depths": [1, 1, 1, 1],
               "num_attention_heads": [1, 2, 4, 4]},
    "regnet": {**_STAGES, "layer_type": "y", "groups_width": 8},
    "resnet": _STAGES,
    "segformer": {"hidden_sizes": [16, 16, 32, 32], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 2, 4],
                  "decoder_hidden_size": 32},
    "siglip2": {"text_config": _TEXT, "vision_config": {**_IMAGE, "num_patches": 16}},
    "swiftformer": {"image_size": 64, "embed_dims": [16, 32, 32, 32], "depths": [1, 1, 1, 1]},
    "swin": _PYRAMID,
    "swinv2": _PYRAMID,
    "vit": _IMAGE,
    "vit_msn": _IMAGE,
}  # fmt: skip
_VIDEO: dict[str, Options] = {
    "timesformer": {**_IMAGE, "num_frames": 2},
    "videomae": {**_IMAGE, "num_frames": 4, "tubelet_size": 2},
    "vivit": {**_IMAGE, "num_frames": 4, "tubelet_size": [2, 8, 8]},
}
_TWO_TOWERS: dict[str, Options] = {
    "altclip": {**_TOWERS, "projection_dim": 24},
    "chinese_clip": {**_TOWERS, "projection_dim": 24},
    "clip": {**_TOWERS, "projection_dim": 24},
    "metaclip_2": {**_TOWERS, "projection_dim": 24},
    "siglip": _TOWERS,
}
_SEGMENTERS: dict[str, Options] = {
    "beit": {**_IMAGE, "num_hidden_layers": 4, "image_size": 64, "out_indices": [1, 2, 3, 4]},
    "mobilevit": _VISION["mobilevit"],
    "segformer": _VISION["segformer"],
}
_DEPTH: dict[str, Options] = {
    "dpt": {**_IMAGE, "num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3], "is_hybrid": False,
            "neck_hidden_sizes": [16, 16, 32, 32], "fusion_hidden_size": 16},
    "glpn": {"hidden_sizes": [16, 16, 32, 32], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 2, 4],
             "decoder_hidden_size": 16},
}  # fmt: skip
_DETECTION: dict[str, Options] = {
    "detr": {
        "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "num_queries": 6,
        "use_timm_backbone": False, "use_pretrained_backbone": False,
        "backbone_config": {"model_type": "resnet", **_STAGES, "out_features": ["stage2"]},
    },
    "yolos": {**_IMAGE, "image_size": [32, 32], "num_detection_tokens": 5},
}  # fmt: skip
_AUDIO: dict[str, Options] = {
    "audio-spectrogram-transformer": {**_IMAGE, "max_length": 40, "num_mel_bins": 16, "frequency_stride": 4},
    "data2vec-audio": {**_SOUND, "num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 5},
    "hubert": _SOUND,
    "sew": {**_SOUND, "squeeze_factor": 2},
    "unispeech": _SOUND,
    "unispeech-sat": _SOUND,
    "wav2vec2": _SOUND,
    "wav2vec2-bert": {**_SOUND, "feature_projection_input_dim": 16, "conv_depthwise_kernel_size": 5},
    "wav2vec2-conformer": {**_SOUND, "conv_depthwise_kernel_size": 5},
    "wavlm": {**_SOUND, "num_buckets": 8},
}
_SPEECH: dict[str, Options] = {
    "moonshine": {
        **_DECODER, "encoder_num_hidden_layers": 2, "decoder_num_hidden_layers": 2, "decoder_start_token_id": 1,
        "encoder_num_attention_heads": 4, "decoder_num_attention_heads": 4,
        "encoder_num_key_value_heads": 4, "decoder_num_key_value_heads": 4,
    },
    "speech_to_text": {**_SEQ2SEQ, "input_feat_per_channel": 16, "max_source_positions": 60, "conv_channels": 32},
    "whisper": {**_SEQ2SEQ, "num_mel_bins": 16, "max_source_positions": 30},
}  # fmt: skip
_STATE_SPACE: dict[str, Options] = {
    "falcon_mamba": _STATE,
    "mamba": _STATE,
    "mamba2": {**_STATE, "head_dim": 8, "num_heads": 8, "n_groups": 2, "chunk_size": 4},
    "recurrent_gemma": {**_DECODER, "num_key_value_heads": 1, "head_dim": 8, "attention_window_size": 4,
                        "block_types": ["recurrent", "attention"]},
    "rwkv": {**_STATE, "attention_hidden_size": 32, "context_length": 40, "rescale_every": 0},
}  # fmt: skip


def entries() -> Iterator[Entry]:
    """Every architecture, by kind; two also with the attention that is written out instead of the fused one."""
    for kind, (_, _, common, architectures) in _KINDS.items():
        for name, options in architectures.items():
            called = name if kind not in ("two towers", "segmentation") else f"{name} ({kind})"
            yield Entry(called, kind, partial(_build, name, kind, {**common, **options}))
    for name, kind, options in (("bert", "encoder", _TEXT), ("llama", "decoder", _DECODER)):
        yield Entry(f"{name} (eager)", kind, partial(_build, name, kind, {**options, "attn_implementation": "eager"}))


class Logits(nn.Module):
    """A model that returns its logits alone."""

    def __init__(self, model: nn.Module, output: str = "logits") -> None:
        super().__init__()
        self.model = model
        self.output = output

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        """The logits, of the shape that the model gives them."""
        logits: torch.Tensor = self.model(**inputs)[self.output]
        return logits


def _build(name: str, kind: str, options: Options) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    auto, inputs, _, _ = _KINDS[kind]
    config = transformers.CONFIG_MAPPING[name](**options)
    model = _CLASSES[name](config) if name in _CLASSES else auto.from_config(config)
    randomize(model)
    if output := _OUTPUTS.get(kind):
        model = Logits(model, output)
    return model.eval(), inputs(config, name)


def _tokens(config: Any, name: str) -> Any:
    ids = torch.randint(3, 32, (2, 16))
    mask = torch.ones_like(ids)
    mask[1, 12:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def _only_tokens(config: Any, name: str) -> Any:
    return {"input_ids": torch.randint(3, 32, (2, 16))}


def _two_texts(config: Any, name: str) -> Any:
    return {**_tokens(config, name), "decoder_input_ids": torch.randint(3, 32, (2, 8))}


def _pixels(config: Any, name: str) -> Any:
    size = getattr(config, "image_size", None) or 64
    size = size if isinstance(size, int) else size[0]
    if frames := getattr(config, "num_frames", None):
        return {"pixel_values": torch.randn(2, frames, 3, size, size)}
    if name == "siglip2":
        return {
            "pixel_values": torch.randn(2, 16, 3 * 8 * 8),
            "pixel_attention_mask": torch.ones(2, 16, dtype=torch.int64),
            "spatial_shapes": torch.tensor([[4, 4], [2, 8]]),
        }
    return {"pixel_values": torch.randn(2, 3, size, size)}


def _text_and_pixels(config: Any, name: str) -> Any:
    return {**_tokens(config, name), "pixel_values": torch.randn(2, 3, 32, 32)}


def _waves(config: Any, name: str) -> Any:
    if name == "audio-spectrogram-transformer":
        return {"input_values": torch.randn(2, 40, 16)}
    if name == "wav2vec2-bert":
        return {"input_features": torch.randn(2, 20, 16)}
    return {"input_values": torch.randn(2, 800)}


def _speech(config: Any, name: str) -> Any:
    decoder = {"decoder_input_ids": torch.randint(3, 32, (2, 8))}
    if name == "moonshine":
        return {"input_values": torch.randn(2, 2000), **decoder}
    frames = (2, 16, 60) if name == "whisper" else (2, 60, 16)
    return {"input_features": torch.randn(frames), **decoder}


_CLASSIFIER = transformers.AutoModelForSequenceClassification
# Each kind's class, its inputs, what all of its configurations share, and its architectures.
_KINDS: dict[str, tuple[Any, Any, Options, dict[str, Options]]] = {
    "encoder": (_CLASSIFIER, _tokens, _TEXT, _ENCODERS),
    "decoder": (transformers.AutoModelForCausalLM, _tokens, _DECODER, _DECODERS),
    "encoder-decoder": (transformers.AutoModelForSeq2SeqLM, _two_texts, {}, _ENCODER_DECODERS),
    "vision": (transformers.AutoModelForImageClassification, _pixels, {}, _VISION),
    "video": (transformers.AutoModelForVideoClassification, _pixels, {}, _VIDEO),
    "segmentation": (transformers.AutoModelForSemanticSegmentation, _pixels, {}, _SEGMENTERS),
    "depth": (transformers.AutoModelForDepthEstimation, _pixels, {}, _DEPTH),
    "detection": (transformers.AutoModelForObjectDetection, _pixels, {}, _DETECTION),
    "two towers": (transformers.AutoModelForZeroShotImageClassification, _text_and_pixels, {}, _TWO_TOWERS),
    "audio": (transformers.AutoModelForAudioClassification, _waves, {}, _AUDIO),
    "speech to text": (transformers.AutoModelForSpeechSeq2Seq, _speech, {}, _SPEECH),
    "state space": (transformers.AutoModelForCausalLM, _only_tokens, {}, _STATE_SPACE),
}
# Of architectures that have several classes of a kind.
_CLASSES = {"deit": transformers.DeiTForImageClassification, "levit": transformers.LevitForImageClassification}
# What to ask for where a call returns more than its logits.
_OUTPUTS = {"encoder-decoder": "logits", "speech to text": "logits", "two towers": "logits_per_image"}
