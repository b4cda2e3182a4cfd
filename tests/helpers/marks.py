"""What a test needs of the machine."""

import shutil

import pytest

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch.compile makes its kernels by g++ here, and there is none"
)
