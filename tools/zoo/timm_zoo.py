"""One model of every timm family: its smallest variant, on the smallest images that it takes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import timm
import torch
from torch import nn

from zoo import Entry, randomize

Variant = tuple[str, dict[str, Any]]  # a model's name, and options to build it with


def _of(name: str, **options: Any) -> Variant:
    return name, options


# Written down, since finding the smallest of over a thousand models means building them all (four minutes). Repeated
# layers of the largest are fewer (depth); nothing else is changed but the image size.
_SMALLEST: dict[str, Variant] = {
    "beit": _of("beit_base_patch16_224", img_size=64, depth=4),
    "byoanet": _of("halonet_h1"),
    "byobnet": _of("test_byobnet", img_size=64),
    "cait": _of("cait_xxs24_224", img_size=64),
    "coat": _of("coat_tiny", img_size=64),
    "convit": _of("convit_tiny", img_size=64),
    "convmixer": _of("convmixer_768_32"),
    "convnext": _of("test_convnext"),
    "cpubone": _of("cpubone_nano"),
    "crossvit": _of("crossvit_tiny_240"),
    "csatv2": _of("csatv2"),
    "cspnet": _of("cs3darknet_focus_s"),
    "cspnext": _of("cspnext_tiny"),
    "davit": _of("davit_tiny"),
    "deepseek_vit": _of("deepseek_vit_412m", img_size=56, depth=2),
    "deit": _of("deit_tiny_patch16_224", img_size=64),
    "densenet": _of("densenet121"),
    "dla": _of("dla46x_c"),
    "dpn": _of("dpn48b"),
    "edgenext": _of("edgenext_xx_small"),
    "efficientformer": _of("efficientformer_l1"),
    "efficientformer_v2": _of("efficientformerv2_s0", img_size=64),
    "efficientnet": _of("test_efficientnet"),
    "efficientvim": _of("efficientvim_m1"),
    "efficientvit_mit": _of("efficientvit_b0"),
    "efficientvit_msra": _of("efficientvit_m0", img_size=64),
    "eva": _of("vit_tiny_patch16_dinov3_qkvb", img_size=64),
    "fasternet": _of("fasternet_t0"),
    "fastvit": _of("fastvit_t8"),
    "focalnet": _of("focalnet_tiny_srf"),
    "gcvit": _of("gcvit_xxtiny", img_size=64),
    "gemma4_vit": _of("gemma4_vit_167m", img_size=64, depth=4),
    "ghostnet": _of("ghostnet_050"),
    "hardcorenas": _of("hardcorenas_b"),
    "hgnet": _of("hgnetv2_b0"),
    "hiera": _of("hiera_tiny_224", img_size=64),
    "hieradet_sam2": _of("sam2_hiera_tiny"),
    "hrnet": _of("hrnet_w18_small"),
    "iformer": _of("iformer_t"),
    "inception_next": _of("inception_next_atto"),
    "inception_resnet_v2": _of("inception_resnet_v2"),
    "inception_v3": _of("inception_v3"),
    "inception_v4": _of("inception_v4"),
    "lcnetv2": _of("lcnetv2_small"),
    "levit": _of("levit_128s", img_size=64),
    "lowformer": _of("lowformer_b0"),
    "mambaout": _of("test_mambaout"),
    "maxxvit": _of("test_coatnet", img_size=64),
    "metaformer": _of("poolformerv2_s12"),
    "mlp_mixer": _of("gmlp_ti16_224", img_size=64),
    "mobilenetv3": _of("mobilenetv3_small_050"),
    "mobilenetv5": _of("mobilenetv5_base"),
    "mobilevit": _of("mobilevit_xxs", img_size=64),
    "mvitv2": _of("mvitv2_tiny", img_size=64),
    "naflexvit": _of("naflexvit_base_patch16_parfac_gap", img_size=64, depth=4),
    "nasnet": _of("nasnetalarge"),
    "nest": _of("nest_tiny", img_size=64),
    "nextvit": _of("nextvit_small"),
    "nfnet": _of("test_nfnet"),
    "pit": _of("pit_ti_224", img_size=64),
    "pnasnet": _of("pnasnet5large"),
    "pvt_v2": _of("pvt_v2_b0"),
    "qwen3_vit": _of("qwen3_vit_88m", img_size=64, depth=4),
    "rdnet": _of("rdnet_tiny"),
    "regnet": _of("regnetx_002"),
    "repghost": _of("repghostnet_050"),
    "repvit": _of("repvit_m1"),
    "res2net": _of("res2next50"),
    "resnest": _of("resnest14d"),
    "resnet": _of("test_resnet"),
    "resnetv2": _of("resnetv2_18"),
    "rexnet": _of("rexnet_100"),
    "selecsls": _of("selecsls42"),
    "senet": _of("legacy_seresnet18"),
    "sequencer": _of("sequencer2d_s", img_size=64),
    "shvit": _of("shvit_s1"),
    "sknet": _of("skresnet18"),
    "starnet": _of("starnet_s050"),
    "swiftformer": _of("swiftformer_xs", img_size=64),
    "swin_transformer": _of("swin_tiny_patch4_window7_224", img_size=64),
    "swin_transformer_v2": _of("swinv2_tiny_window8_256", img_size=64),
    "swin_transformer_v2_cr": _of("swinv2_cr_tiny_224", img_size=64),
    "tiny_vit": _of("tiny_vit_5m_224"),
    "tnt": _of("tnt_s_legacy_patch16_224", img_size=64),
    "tresnet": _of("tresnet_m"),
    "twins": _of("twins_svt_small", img_size=64),
    "vgg": _of("vgg11"),
    "visformer": _of("visformer_tiny", img_size=64),
    "vision_transformer": _of("test_vit", img_size=64),
    "vision_transformer_hybrid": _of("vit_tiny_r_s16_p8_224", img_size=64),
    "vision_transformer_relpos": _of("test_vit_relpos", img_size=64),
    "vision_transformer_sam": _of("samvit_base_patch16_224", img_size=64, depth=4),
    "vitamin": _of("vitamin_small_224", img_size=64),
    "volo": _of("volo_d1_224", img_size=64),
    "vovnet": _of("ese_vovnet19b_slim_dw"),
    "xception": _of("legacy_xception"),
    "xception_aligned": _of("xception41p"),
    "xcit": _of("xcit_nano_12_p8_224", img_size=64),
}
_SIZE = {"byoanet": 256, "efficientformer": 224, "inception_resnet_v2": 96, "inception_v3": 96, "inception_v4": 96}


def entries() -> Iterator[Entry]:
    """One variant of each family; of one that the table does not know, the first that timm lists."""
    for family in timm.list_modules():
        if names := timm.list_models(module=family):
            name, options = _SMALLEST.get(family, (names[0], {}))
            yield Entry(name, family, partial(_build, name, options, _size(family, options)))


def _size(family: str, options: dict[str, Any]) -> int | None:
    """Height and width of an image; None for what the model was made for."""
    return options.get("img_size", _SIZE.get(family, 64)) if family in _SMALLEST else None


def _build(name: str, options: dict[str, Any], size: int | None) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model = timm.create_model(name, **options)
    randomize(model)
    channels, height, width = model.default_cfg["input_size"]
    return model.eval(), torch.randn(2, channels, size or height, size or width)
