"""What a device could do at the most, and how much of it was used (MFU). Pure.

Figures are dense FLOP/s (without structured sparsity, with which datasheets like to print the double) of the tensor
cores in 16 bit, from NVIDIA's datasheets: "A100 Tensor Core GPU", "H100 Tensor Core GPU" and "H200 Tensor Core GPU"
(columns SXM and NVL), "H100 PCIe GPU", "HGX B200", "L4", "L40S", "A10", "T4", "V100"; of the A10G from the datasheet
"NVIDIA A10G" that AWS publishes with its G5 instances. T4 and V100 have no bfloat16.
"""

from s3ray.bench.schema import Missing

_TERA = 1e12
_BOTH = ("bfloat16", "float16")
_HALF = ("float16",)

# What is in a device's name as its driver says it, most special first: peak in TFLOP/s, and the formats it holds for.
_PEAKS: tuple[tuple[str, float, tuple[str, ...]], ...] = (
    ("B200", 2250.0, _BOTH),
    ("H200 NVL", 835.5, _BOTH),
    ("H200", 989.5, _BOTH),
    ("H100 PCIe", 756.0, _BOTH),
    ("H100 80GB HBM2e", 756.0, _BOTH),  # what older drivers call the PCIe card
    ("H100 NVL", 835.5, _BOTH),
    ("H100", 989.5, _BOTH),
    ("A100", 312.0, _BOTH),
    ("L40S", 362.0, _BOTH),
    ("L4", 121.0, _BOTH),
    ("A10G", 70.0, _BOTH),
    ("A10", 125.0, _BOTH),
    ("Tesla T4", 65.0, _HALF),
    ("V100 PCIE", 112.0, _HALF),
    ("V100", 125.0, _HALF),
)


def peak_flops(device: str, device_name: str, dtype: str) -> float | Missing:
    """Peak FLOP/s of one device in a number format, as its driver names it (``NVIDIA H100 80GB HBM3``)."""
    if device != "gpu":
        return Missing("the device is no GPU, and its peak is not known")
    words = f" {device_name} ".replace("-", " ")
    if " MIG " in words:
        return Missing(f"{device_name} is a part of a GPU, and its peak is not known")
    for name, tera, formats in _PEAKS:
        if f" {name} " in words:
            if dtype in formats:
                return tera * _TERA
            return Missing(f"the peak of {device_name} is known in {' and '.join(formats)}, not in {dtype}")
    return Missing(f"the peak of {device_name or 'a device without a name'} is not known")


def model_flops_use(
    parameters: int | Missing, tokens_per_s: float, num_devices: float | Missing, peak: float | Missing
) -> float | Missing:
    """Model FLOP/s over what all devices could do: 2 per parameter and token that went through the model.

    Attention itself is not counted, as in the usual approximation; long contexts therefore read a little low.
    """
    if isinstance(peak, Missing):
        return peak
    if isinstance(parameters, Missing):
        return parameters
    if isinstance(num_devices, Missing):
        return num_devices
    return 2.0 * parameters * tokens_per_s / (peak * num_devices)
