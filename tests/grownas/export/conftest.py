"""What the tests of ONNX files share."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def session():
    """A function that opens a model in ONNX Runtime."""
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    return lambda proto: runtime.InferenceSession(proto.SerializeToString())
