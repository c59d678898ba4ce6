"""Why an engine did not start, and where the seconds of its start went: read from what its processes print.

vLLM builds its model in processes of its own. When one of them fails, the caller is told only that it failed; the cause
stands in the output. This module knows vLLM's words, but does not import it.
"""

import contextlib
import os
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import NamedTuple, Self

from s3ray.errors import DeviceMemoryError, EngineStartError
from s3ray.redaction import mask
from s3ray.text import valid_text

_KEPT_BYTES = 2**18
"""How much of each stream is kept: its end, with room for the tracebacks of many processes."""
_CATCH_UP_S = 2.0
"""How long the last words of processes that failed are waited for; those that live on keep the stream open."""
_LONGEST = 500
"""Characters of a cause in a message: some of vLLM's list every model that it knows."""


class Output:
    """What this process and its children print while the block is open; all of it also goes where it went before.

    Children keep what they inherit for as long as they live, so what they print later is passed on too.
    """

    def __enter__(self) -> Self:
        _flush()
        self._tapes = [_Tape(stream) for stream in (1, 2)]
        return self

    def __exit__(self, *error: object) -> None:
        _flush()
        for tape in self._tapes:
            tape.stop()

    def text(self) -> str:
        """What is kept so far."""
        return "\n".join(tape.text() for tape in self._tapes)

    def last_words(self) -> str:
        """What is kept after the block, with what was still under way."""
        deadline = time.monotonic() + _CATCH_UP_S
        for tape in self._tapes:
            tape.catch_up(deadline)
        return self.text()


class _Tape:
    """The end of what goes through one of the process's streams."""

    def __init__(self, stream: int) -> None:
        self._stream = stream
        self._kept: deque[bytes] = deque()
        self._num_kept = 0
        self._onwards = os.dup(stream)
        self._inlet, outlet = os.pipe()
        os.dup2(outlet, stream)
        os.close(outlet)
        self._pump = threading.Thread(target=self._pass_on, name=f"output-{stream}", daemon=True)
        self._pump.start()

    def stop(self) -> None:
        os.dup2(self._onwards, self._stream)

    def catch_up(self, deadline: float) -> None:
        self._pump.join(max(0.0, deadline - time.monotonic()))

    def text(self) -> str:
        return b"".join(list(self._kept)).decode(errors="replace")

    def _pass_on(self) -> None:
        while chunk := os.read(self._inlet, 2**16):
            self._keep(chunk)
            # A terminal that has been closed must not stop the engine.
            with contextlib.suppress(OSError):
                while chunk:
                    chunk = chunk[os.write(self._onwards, chunk) :]
        os.close(self._inlet)
        os.close(self._onwards)

    def _keep(self, chunk: bytes) -> None:
        self._kept.append(chunk)
        self._num_kept += len(chunk)
        while self._num_kept - len(self._kept[0]) >= _KEPT_BYTES:
            self._num_kept -= len(self._kept.popleft())


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()


# -- why it did not start ----------------------------------------------------------------------------------------------

_PROCESS = re.compile(r"^\([\w ]+ pid=\d+\) ?")
_HEADER = re.compile(r"^.{0,300}?\b(?:DEBUG|INFO|WARNING|ERROR|CRITICAL) \d\d-\d\d [\d:.]+ \[[^\]]*\] ")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_ERROR = re.compile(r"^(?:\w+\.)*(?P<name>[A-Z]\w*(?:Error|Exception)): (?P<words>.*\S)")
_WORKER = re.compile(r"Worker failed with error ['\"](?P<words>.+?)['\"], please check")
_PYDANTIC = re.compile(r"Value error, (?P<words>.+?)(?: \[type=|\n|$)", re.S)
_KILLED = re.compile(r"Failed core proc\(s\): \{.*?: -(?P<signal>\d+)")
_NO_CAUSE = (
    "Engine core initialization failed",
    "WorkerProc initialization failed",
    "Executor failed",
    "EngineCore encountered",
    "cancelled",
)
"""Beginnings of errors that only say that another one happened."""
_NOT_FREE_YET = re.compile(r"Free memory on device .+ is less than|Error in memory profiling\. Initial free memory")


_NO_LIBRARY = ("ImportError: ", "ModuleNotFoundError: ")
_REINSTALL = "What is installed on that node is not whole or was made for another machine; compare it with other nodes."


class _Final(NamedTuple):
    """Words by which a cause is known that is the same at every start, and what helps."""

    words: re.Pattern[str]
    hint: str


_SMALLER = (
    "Raise generator.gpu_memory_utilization, lower generator.max_model_len, generator.max_num_batched_tokens or "
    "generator.max_num_seqs, give each engine more GPUs (generator.tensor_parallel), or take a smaller model."
)
_FINAL = (
    _Final(re.compile(r"No available memory for the cache blocks"), _SMALLER),
    _Final(re.compile(r"larger than the available KV cache memory"), _SMALLER),
    _Final(
        re.compile(r"less than requested memory for kv|cannot allocate .* KV cache", re.I),
        "Lower generator.kv_cache_gib, or free memory of that node.",
    ),
    _Final(re.compile(r"(?:CUDA|HIP) out of memory|^OutOfMemoryError"), _SMALLER),
    _Final(
        re.compile(r"greater than the derived max_model_len"),
        "Lower generator.max_model_len to what the model was made for.",
    ),
    _Final(
        re.compile(r"GatedRepoError|gated repo|access to model .+ is restricted", re.I),
        "Accept the model's terms on its page at huggingface.co, and set HF_TOKEN to a token of that account in the "
        "environment of every node.",
    ),
    _Final(
        re.compile(
            r"RepositoryNotFoundError|not a valid model identifier|not a local folder|Repository Not Found", re.I
        ),
        "Check generator.model: a folder that every node can read, or the id of a model at huggingface.co; a private "
        "one needs HF_TOKEN in the environment of every node.",
    ),
    _Final(
        re.compile(r"NVIDIA driver on your system is too old|driver version is insufficient|UnsupportedDriver", re.I),
        "Install a newer NVIDIA driver on that node (R580 or later for CUDA 13).",
    ),
    _Final(
        re.compile(
            r"no kernel image is available|compute capability of at least|compute capability .+not supported", re.I
        ),
        "This GPU cannot compute it: set generator.dtype to float16 if it is only the number format, else take newer "
        "GPUs (generator.accelerator) or another model.",
    ),
    _Final(
        re.compile(r"Model architectures? .+ (?:not supported|failed to be inspected)|not recognize this architecture"),
        "The installed vLLM does not know this model: take another one, or install a vLLM that does.",
    ),
    _Final(
        re.compile(
            r"(?:unknown|invalid) quantization|quantization.+not (?:supported|in)|Cannot find the config file for", re.I
        ),
        "The installed vLLM, or this GPU, cannot compute this quantisation: take another version of the model.",
    ),
    _Final(
        re.compile(r"could not find nvcc|nvcc.* not found|No such file or directory: '?[^ ]*nvcc", re.I),
        "Something is to be compiled and the node has no CUDA toolkit: install it there and set CUDA_HOME, or switch "
        "off what asks for it (VLLM_USE_FLASHINFER_SAMPLER=0).",
    ),
)


def start_failure(error: Exception, output: str) -> EngineStartError | DeviceMemoryError:
    """The error for the user: ``error`` is what the engine raised, ``output`` what its processes printed.

    A ``DeviceMemoryError`` says that another process still held the memory.
    """
    causes = [cause for cause in (*_printed(output), _raised(error)) if not _is_empty(cause)]
    for cause in reversed(causes):
        if _NOT_FREE_YET.search(cause):
            return DeviceMemoryError(
                _problem(cause), "Another process still held the GPU's memory; `nvidia-smi` on that node names it."
            )
        for known in _FINAL:
            if known.words.search(cause):
                return EngineStartError(_problem(cause), known.hint, is_final=True)
    if killed := _KILLED.search(str(error)):
        causes.append(f"its process was killed by signal {killed['signal']}")
    cause = causes[-1] if causes else str(error)
    # An import that failed earlier may have been tried only to see whether a library is there.
    if cause.startswith(_NO_LIBRARY):
        return EngineStartError(_problem(cause), _REINSTALL, is_final=True)
    hint = "Ray keeps all that it printed in session_latest/logs of its temporary folder (/tmp/ray) on that node."
    # What a configuration is refused for before anything is loaded is the same each time.
    return EngineStartError(_problem(cause), hint, is_final=_is_refusal(error))


def _problem(cause: str) -> str:
    text = " ".join(valid_text(str(mask(cause))).split())
    return f"the engine did not start: {text if len(text) <= _LONGEST else text[:_LONGEST] + ' ...'}"


def _printed(output: str) -> Iterator[str]:
    """The errors in an output, in their order: the last lines of tracebacks, and what vLLM says of its workers."""
    for raw in output.splitlines():
        line = _HEADER.sub("", _PROCESS.sub("", _COLOUR.sub("", raw)))
        if worker := _WORKER.search(line):
            yield worker["words"]
        elif found := _ERROR.match(line):
            yield f"{found['name']}: {found['words']}"


def _raised(error: Exception) -> str:
    """What an error says that was raised to the caller: its first line, or the first refusal of pydantic's."""
    text = str(error)
    if _is_refusal(error) and (refused := _PYDANTIC.search(text)):
        return refused["words"]
    return f"{type(error).__name__}: {text.strip().partition(chr(10))[0]}"


def _is_refusal(error: Exception) -> bool:
    return type(error).__name__ == "ValidationError"


def _is_empty(cause: str) -> bool:
    words = cause.partition(": ")[2] or cause
    return words.startswith(_NO_CAUSE)


# -- what a start cost -------------------------------------------------------------------------------------------------

_WEIGHTS = re.compile(r"(?:Model loading took .+? GiB memory and|Loading weights took) ([\d.]+) seconds")
_COMPILE = re.compile(r"torch\.compile took ([\d.]+) s in total")
_GRAPHS = re.compile(r"Graph capturing finished in ([\d.]+) secs")
_PREPARED = re.compile(r"init engine \(profile, create kv cache, warmup model\) took ([\d.]+) s")


def seconds_by_part(output: str) -> Mapping[str, float]:
    """Where vLLM says that the seconds of a start went: ``weights``, ``compile``, ``graphs``, ``profile``.

    Parts that it does not mention are missing. Workers of one engine do the same at once, so the slowest counts;
    ``profile`` is what is left of the time after the weights: memory profile, KV cache and warm-up.
    """
    found = {
        name: max(map(float, told))
        for name, words in (("weights", _WEIGHTS), ("compile", _COMPILE), ("graphs", _GRAPHS))
        if (told := words.findall(output))
    }
    if prepared := _PREPARED.findall(output):
        rest = max(map(float, prepared)) - found.get("compile", 0.0) - found.get("graphs", 0.0)
        found["profile"] = round(max(0.0, rest), 2)
    return found
