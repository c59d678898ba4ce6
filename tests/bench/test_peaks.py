"""Known devices have the peak of their datasheet; all others, and all doubt, have a reason."""

import pytest

from s3ray.bench.peaks import model_flops_use, peak_flops
from s3ray.bench.schema import Missing


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", 989.5),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H200", 989.5),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA A100 80GB PCIe", 312.0),
        ("NVIDIA A10G", 70.0),
        ("NVIDIA A10", 125.0),
        ("NVIDIA L4", 121.0),
        ("NVIDIA L40S", 362.0),
    ],
)
def test_known_devices(name: str, tera: float) -> None:
    assert peak_flops("gpu", name, "bfloat16") == tera * 1e12


@pytest.mark.parametrize(
    ("device", "name", "dtype", "says"),
    [
        ("cpu", "AMD EPYC", "float32", "no GPU"),
        ("gpu", "NVIDIA GeForce RTX 4090", "bfloat16", "RTX 4090 is not known"),
        ("gpu", "NVIDIA GH200 480GB", "bfloat16", "is not known"),
        ("gpu", "", "bfloat16", "without a name"),
        ("gpu", "NVIDIA H100 80GB HBM3", "float32", "not in float32"),
        ("gpu", "Tesla T4", "bfloat16", "float16, not in bfloat16"),
        ("gpu", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "bfloat16", "part of a GPU"),
    ],
)
def test_unknown_peaks_have_a_reason(device: str, name: str, dtype: str, says: str) -> None:
    told = peak_flops(device, name, dtype)
    assert isinstance(told, Missing)
    assert says in told.reason


def test_half_of_the_peak_is_half() -> None:
    assert model_flops_use(10**9, 1000.0, 2, 2e12) == pytest.approx(0.5)


def test_the_first_thing_that_is_not_known_is_the_reason() -> None:
    no = Missing("no")
    assert model_flops_use(no, 1.0, 1, 1.0) is no
    assert model_flops_use(1, 1.0, no, 1.0) is no
    assert model_flops_use(1, 1.0, 1, no) is no
