"""unit/ parity/ e2e/: small pieces, golden vectors, and the real commands as a user runs them."""

import os

import torch

if not torch.cuda.is_available():
    # Triton decides when it is imported whether it compiles kernels or interprets them.
    os.environ.setdefault("TRITON_INTERPRET", "1")
