"""How much is measured."""

from __future__ import annotations

from dataclasses import dataclass

MODELS = (
    "resnet18", "resnet50", "resnet152", "densenet121", "densenet201", "mobilenet_v2", "efficientnet_b0", "vgg16_bn",
    "regnet_y_400mf", "convnext_tiny", "swin_t", "vit_b_16",
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """What the sections read.

    Attributes:
        models: Names of torchvision's models.
        memory: Of these, the ones whose memory is measured: those that Torch-Pruning finishes soon.
        image: Height and width of the images.
        repeats: Most runs that a median is taken over.
        limit: Seconds after which a run is stopped, on a model of torchvision and in a series of growing networks.
        depths: Numbers of layers of chains and residual chains.
        dense: Numbers of layers of dense blocks.
        widths: Of chains of a fixed depth.
        built: The models that are compared with hand-built ones.
        batches: Batch sizes at which those run.
        modes: ``"eager"``, ``"compiled"``.
        patience: Seconds that the two take turns at each of these.
        threads: Of PyTorch.
    """

    models: tuple[str, ...] = MODELS
    memory: tuple[str, ...] = tuple(name for name in MODELS if name not in ("densenet201", "swin_t"))
    image: int = 224
    repeats: int = 7
    limit: tuple[float, float] = (120.0, 15.0)
    depths: tuple[int, ...] = (50, 100, 200, 400)
    dense: tuple[int, ...] = (12, 24, 48, 96)
    widths: tuple[int, ...] = (64, 128, 256, 512, 1024)
    built: tuple[str, ...] = ("resnet18", "mobilenet_v2", "vgg16_bn")
    batches: tuple[int, ...] = (1, 8)
    modes: tuple[str, ...] = ("eager", "compiled")
    patience: float = 12.0
    threads: int = 1


QUICK = Settings(
    models=("resnet18",),
    memory=("resnet18",),
    image=64,
    repeats=1,
    limit=(20.0, 5.0),
    depths=(2, 4),
    dense=(2, 4),
    widths=(4, 8),
    built=("resnet18",),
    batches=(1,),
    modes=("eager",),
    patience=0.2,
)
