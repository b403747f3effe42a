"""Settings of all tests."""

import torch

torch.set_num_threads(1)  # small tensors run faster so, and results do not depend on the machine's cores
