"""Cases of new tensors."""

import torch
from one_op import Case

CASES = (
    Case("zeros", "nc", lambda x: x + torch.zeros(8, dtype=x.dtype)),
    Case("ones", "nc", lambda x: x + torch.ones((4, 8), dtype=x.dtype)),
    Case("full", "nc", lambda x: x + torch.full((1, 8), 0.3, dtype=x.dtype)),
    Case("empty", "nc", lambda x: x + torch.empty(8, dtype=x.dtype).fill_(0.3)),
    Case("new_zeros", "nc", lambda x: x + x.new_zeros(8)),
    Case("new_ones", "nc", lambda x: x + x.new_ones((4, 8))),
    Case("new_full", "nc", lambda x: x + x.new_full((8,), 0.3)),
    Case("new_empty", "nc", lambda x: x + x.new_empty(8).fill_(0.3)),
    Case("arange", "nC", lambda x: x + torch.arange(x.shape[1])),
    Case("eye", "AC", lambda x: x + torch.eye(*x.shape)),
    Case("linspace", "nC", lambda x: x + torch.linspace(0, 1, x.shape[1])),
    Case("logspace", "nC", lambda x: x + torch.logspace(0, 1, x.shape[1])),
    Case("rand", "nC", lambda x: x + torch.rand(x.shape[1])),
    Case("randn", "nC", lambda x: x + torch.randn(x.shape[1])),
    Case("randint", "nC", lambda x: x + 0 * torch.randint(3, x.shape[1:])),
    Case("randperm", "nC", lambda x: x + 0 * torch.randperm(x.shape[1])),
    Case("scalar_tensor", "nc", lambda x: x + torch.scalar_tensor(x.shape[0])),
)
