"""Public names of the package: imported on first use, so that `import blobex` needs no torch."""

import subprocess
import sys

import pytest

import blobex
from blobex.explain.request import Request


def test_all_public_names_can_be_imported() -> None:
    assert all(hasattr(blobex, name) for name in blobex.__all__)
    assert blobex.Request is Request
    with pytest.raises(AttributeError, match="no attribute 'Explain'"):
        _ = blobex.Explain


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, blobex; assert blobex.__version__ and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_package_runs_as_a_command() -> None:
    result = subprocess.run([sys.executable, "-m", "blobex", "--version"], capture_output=True, text=True, check=True)
    assert result.stdout == f"blobex {blobex.__version__}\n"
