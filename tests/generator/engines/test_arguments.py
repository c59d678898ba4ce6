"""Arguments of vLLM's engine in a job: which are taken, which change the texts, and what is said of the others."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import JsonValue

from s3ray.config.engine_args import Effect, effect_of, known_arguments, shaping_arguments
from s3ray.errors import InputError
from s3ray.generator.engines.arguments import (
    FIELD,
    check_arguments,
    installed_arguments,
    read_arguments,
    refused_by_vllm,
)

SOURCE = """
@dataclass
class EngineArgs:
    model: str = "m"
    quantization: QuantizationMethods | str | None = None
    kv_cache_dtype: CacheDType = "auto"
    block_size: int | None = None
    cpu_offload_gb: float = 0.0
    cpu_offload_params: set[str] = field()
    enforce_eager: bool = False
    load_format: str | LoadFormats = "auto"
    speculative_config: dict[str, Any] | None = None
    _private: int = 0
    def __post_init__(self): ...
class AsyncEngineArgs(EngineArgs):
    enable_log_requests: bool = False
class Other:
    foreign: int = 0
"""
FIELDS = read_arguments(SOURCE)


def refusal(**arguments: Any) -> str:
    with pytest.raises(InputError) as error:
        check_arguments(arguments, FIELDS)
    return str(error.value)


def test_the_names_are_read_from_the_source_of_the_installed_vllm() -> None:
    assert set(FIELDS) >= {"quantization", "speculative_config", "enable_log_requests"}
    assert not set(FIELDS) & {"_private", "foreign"}


@pytest.mark.parametrize(
    "arguments",
    [
        {"quantization": "fp8", "kv_cache_dtype": "fp8", "block_size": 16, "cpu_offload_gb": 2, "enforce_eager": True},
        {"block_size": None, "cpu_offload_gb": 1.5, "cpu_offload_params": ["a"], "load_format": "fastsafetensors"},
        {"speculative_config": {"method": "ngram", "num_speculative_tokens": 3}},
    ],
)
def test_arguments_of_vllm_are_taken(arguments: dict[str, Any]) -> None:
    check_arguments(arguments, FIELDS)


def test_an_unknown_argument_is_refused_with_the_nearest_valid_name() -> None:
    text = refusal(kv_cache_dtyp="fp8")
    assert "generator.engine_args.kv_cache_dtyp: is no argument of vLLM" in text
    assert "Did you mean `kv_cache_dtype`?" in text
    assert "Did you mean" not in refusal(zzz=1)
    assert "`model`" not in refusal(mode=1), "what s3ray sets itself is no advice"


def test_an_argument_that_s3ray_sets_itself_is_refused_with_the_setting_to_use() -> None:
    assert "is set by s3ray (got 0.5)\n  Set generator.gpu_memory_utilization" in refusal(gpu_memory_utilization=0.5)
    assert "Set generator.tensor_parallel." in refusal(tensor_parallel_size=2)
    assert "export HF_TOKEN" in refusal(hf_token=True)
    with pytest.raises(InputError, match=r"Set generator\.model\."):
        check_arguments({"model": "m"}, None)  # known without any vLLM
    check_arguments({"kv_cache_dtyp": "fp8"}, None)  # only an installed one can tell


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"block_size": "16"}, "It takes a whole number."),
        ({"block_size": True}, "It takes a whole number."),
        ({"cpu_offload_gb": "2"}, "It takes a whole number or a number."),
        ({"enforce_eager": 1}, "It takes true or false."),
        ({"speculative_config": "ngram"}, "It takes a map."),
        ({"cpu_offload_params": {"a": 1}}, "It takes a list."),
        ({"load_format": "pt"}, "safetensors, fastsafetensors, instanttensor, runai_streamer can be taken"),
    ],
)
def test_a_value_of_another_kind_is_refused(arguments: dict[str, Any], says: str) -> None:
    assert says in refusal(**arguments)


def test_every_argument_with_a_known_effect_is_one_of_the_installed_vllm() -> None:
    installed = installed_arguments()
    if installed is None:
        pytest.skip("vLLM is not installed here")
    assert known_arguments() <= set(installed)


@pytest.mark.parametrize(
    ("arguments", "shaping"),
    [
        ({"quantization": "fp8", "attention_backend": "TRITON_ATTN"}, {"quantization": "fp8"}),
        ({"kv_cache_dtype": "fp8", "compilation_config": {"level": 0}}, {"kv_cache_dtype": "fp8"}),
        ({"speculative_config": {"method": "ngram"}}, {}),
        ({"speculative_config": {"rejection_sample_method": "block"}}, {}),
        ({"hf_overrides": {"rope_scaling": {}}, "cpu_offload_gb": 4}, {"hf_overrides": {"rope_scaling": {}}}),
        ({"an_argument_of_tomorrow": 1}, {"an_argument_of_tomorrow": 1}),
    ],
)
def test_arguments_shape_the_data_if_they_change_which_texts_are_written(
    arguments: dict[str, Any], shaping: dict[str, Any]
) -> None:
    assert shaping_arguments(arguments) == shaping
    assert all(effect_of(name)[1] for name in arguments), "each has a reason"


def test_speculation_that_does_not_keep_the_distribution_shapes_the_data() -> None:
    lossy: dict[str, JsonValue] = {"speculative_config": {"method": "ngram", "rejection_sample_method": "synthetic"}}
    assert shaping_arguments(lossy) == lossy
    assert effect_of("speculative_config")[0] is Effect.SPEED


def test_what_vllm_refuses_is_said_in_its_own_words() -> None:
    text = str(refused_by_vllm(ValueError("fp8 does not go\n  with this \ud83d card"), FIELD))
    assert text.startswith("generator.engine_args: vLLM ")
    assert "does not take these settings: fp8 does not go with this \ufffd card" in text
    assert str(refused_by_vllm(AssertionError(), "generator")).startswith("generator: vLLM ")


def test_of_a_pydantic_error_the_parts_are_joined() -> None:
    from s3ray.config.job import SamplingConfig

    with pytest.raises(ValueError, match="top_p") as error:
        SamplingConfig.model_validate({"top_p": 2})
    text = str(refused_by_vllm(error.value, FIELD))
    assert "settings: top_p: Input should be less than or equal to 1 (got 2)" in text
    assert "https://" not in text


def test_arguments_are_checked_without_importing_vllm() -> None:
    code = (
        "import sys; from s3ray.generator.engines.arguments import installed_arguments as read; read();"
        "sys.exit('vllm' in sys.modules or 'torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])
