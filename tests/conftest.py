"""Settings that every test needs."""

import torch

# The workers of pytest-xdist share the cores; PyTorch's own threads on top of them would only wait for each other.
torch.set_num_threads(1)
