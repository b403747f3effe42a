"""Settings of all tests."""

import os

import torch

torch.set_num_threads(1)  # small tensors run faster so, and results do not depend on the machine's cores
os.environ["BLOBEX_HOME"] = f"{os.devnull}/blobex"  # what the user has pulled is not there for tests
