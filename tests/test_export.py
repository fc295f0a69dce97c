"""What comes out goes on: torch.compile, torch.export with a dynamic batch, ONNX with onnxruntime, and training."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from networks import randomize
from torch import fx

import fxprune

_MODELS = ("resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "swin_t")


@functools.cache
def _compiled(name: str) -> tuple[fx.GraphModule, torch.Tensor, torch.Tensor]:
    model = torchvision.models.get_model(name, weights=None)
    randomize(model, 0)
    model.eval()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    small = fxprune.compile(model, fxprune.plan(model, images, channels=0.5))
    with torch.no_grad():
        return small, images, small(images)


def _dynamic_batch() -> Any:
    return {0: torch.export.Dim("batch", min=1, max=64)}


@pytest.mark.slow
@pytest.mark.parametrize("name", _MODELS)
def test_torch_compile_agrees(name: str) -> None:
    small, images, expected = _compiled(name)
    with torch.no_grad():
        result = torch.compile(small, backend="aot_eager")(images)
    torch.testing.assert_close(result, expected)


@pytest.mark.slow
def test_torch_compile_to_machine_code_agrees() -> None:
    small, images, expected = _compiled("resnet18")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the inductor's own deprecations
        result = torch.compile(small)(images)
    torch.testing.assert_close(result, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", _MODELS)
def test_torch_export_agrees_at_other_batch_sizes(name: str) -> None:
    small, images, _ = _compiled(name)
    exported = torch.export.export(small, (images,), dynamic_shapes=(_dynamic_batch(),))
    more = torch.randn(5, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(exported.module()(more), small(more))


@pytest.mark.slow
@pytest.mark.parametrize("name", _MODELS)
def test_onnxruntime_agrees_at_other_batch_sizes(name: str, tmp_path: Path) -> None:
    import onnxruntime

    small, images, _ = _compiled(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.onnx.export(small, (images,), dynamo=True, dynamic_shapes=(_dynamic_batch(),), verbose=False)
    assert program is not None
    program.save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    more = torch.randn(5, 3, 64, 64)
    (result,) = session.run(None, {session.get_inputs()[0].name: more.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(result), small(more), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", _MODELS)
def test_every_parameter_trains(name: str) -> None:
    model = torchvision.models.get_model(name, weights=None)
    images = torch.randn(2, 3, 64, 64)
    small = fxprune.compile(model, fxprune.plan(model, images, channels=0.5))
    small(images).square().sum().backward()
    assert [key for key, parameter in small.named_parameters() if parameter.grad is None] == []
    optimizer = torch.optim.SGD(small.parameters(), lr=1e-3)
    before = {key: parameter.detach().clone() for key, parameter in small.named_parameters()}
    optimizer.step()
    moved = [key for key, parameter in small.named_parameters() if not torch.equal(parameter, before[key])]
    assert len(moved) > 0.9 * len(before)
