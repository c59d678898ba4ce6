"""On a CPU the number format follows what the CPU can do, unless the job says otherwise."""

import pytest

from s3ray.generator.engines.vllm import resolve_dtype


@pytest.mark.parametrize(
    ("asked", "device", "flags", "resolved"),
    [
        ("auto", "cpu", {"avx2"}, "float32"),
        ("auto", "cpu", {"avx2", "avx512_bf16"}, "bfloat16"),
        ("auto", "cpu", {"asimd", "bf16"}, "bfloat16"),
        ("auto", "gpu", {"avx2"}, "auto"),
        ("float32", "cpu", {"avx512_bf16"}, "float32"),
    ],
)
def test_dtype(asked: str, device: str, flags: set[str], resolved: str) -> None:
    assert resolve_dtype(asked, device, flags) == resolved
