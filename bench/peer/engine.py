"""llama.cpp under the workload: `python -m bench.peer.engine MODEL.gguf --threads N`, in the peer's environment.

It is driven through its own C functions, so that nothing of Python's bindings is timed but the filling of a batch.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import llama_cpp
from llama_cpp._ggml import libggml_base_path

from bench.workload import Step, serve

BATCH = 512
CONTEXT = 1024

ggml = ctypes.CDLL(str(libggml_base_path / "libggml-base.so"))
ggml.ggml_commit.restype = ctypes.c_char_p
ggml.ggml_get_name.restype = ctypes.c_char_p
ggml.ggml_nbytes.restype = ctypes.c_size_t

EvalCallback = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_bool, ctypes.c_void_p)
CHOSEN = b"ffn_moe_topk"

WARNING = 3


def log(level: int, text: bytes, _: int) -> None:
    """Shows warnings and errors only."""
    if level >= WARNING:
        sys.stderr.write(text.decode(errors="replace"))


class LlamaCpp:
    """A loaded GGUF. A context for each number of sequences, with flash attention as llama.cpp itself decides."""

    def __init__(self, path: Path, *, threads: int, mmap: bool, repack: bool) -> None:
        parameters = llama_cpp.llama_model_default_params()
        parameters.n_gpu_layers = 0
        parameters.load_mode = llama_cpp.LLAMA_LOAD_MODE_MMAP if mmap else llama_cpp.LLAMA_LOAD_MODE_NONE
        parameters.use_extra_bufts = repack
        self._threads = threads
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        if not self._model:
            raise SystemExit(
                f"llama.cpp cannot load {path}: see its log above, or delete the file to have it rewritten"
            )
        self.vocabulary: int = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self._contexts: dict[int, Any] = {}
        self._batch = llama_cpp.llama_batch_init(BATCH, 0, 1)
        self._lengths: list[int] = []
        self._history: list[Step] = []

    def reset(self, sequences: int) -> None:
        if sequences not in self._contexts:
            self._contexts[sequences] = self._new_context(sequences)
        self._use(self._contexts[sequences], sequences)

    def step(self, tokens: Step) -> None:
        self._fill(tokens)
        failed = llama_cpp.llama_decode(self._context, self._batch)
        if failed:
            raise SystemExit(f"llama_decode of {self._batch.n_tokens} tokens returned {failed}: see its log above")
        # Waits for the computation, and is the least that a sampler would do.
        llama_cpp.llama_get_logits_ith(self._context, self._batch.n_tokens - 1)

    def experts_hit(self, tokens: Step) -> list[int]:
        """Repeats the sequences so far in a context that shows what is routed where."""
        hit: list[int] = []
        history = self._history
        watched = EvalCallback(_watch(hit))
        context = self._new_context(len(tokens), watched)
        self._use(context, len(tokens))
        for step in history:
            self.step(step)
        hit.clear()
        self.step(tokens)
        llama_cpp.llama_free(context)
        self.reset(len(tokens))
        return hit

    def _use(self, context: Any, sequences: int) -> None:
        self._context = context
        self._lengths = [0] * sequences
        self._history = []
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)

    def _new_context(self, sequences: int, watched: Any = None) -> Any:
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = CONTEXT * sequences
        parameters.n_batch = parameters.n_ubatch = BATCH
        parameters.n_seq_max = sequences
        parameters.n_threads = parameters.n_threads_batch = self._threads
        if watched is not None:
            parameters.cb_eval = ctypes.cast(watched, type(parameters.cb_eval))
        return llama_cpp.llama_init_from_model(self._model, parameters)

    def _fill(self, tokens: Step) -> None:
        batch, row = self._batch, 0
        for sequence, ids in enumerate(tokens):
            for token in ids:
                batch.token[row] = token
                batch.pos[row] = self._lengths[sequence]
                batch.n_seq_id[row] = 1
                batch.seq_id[row][0] = sequence
                batch.logits[row] = False
                self._lengths[sequence] += 1
                row += 1
            batch.logits[row - 1] = True
        batch.n_tokens = row
        self._history.append(tokens)


def _watch(hit: list[int]) -> Callable[[int, bool, int], bool]:
    """Counts the distinct experts of every layer as they are chosen."""

    def told(tensor: int, asked: bool, _: int) -> bool:
        pointer = ctypes.c_void_p(tensor)
        is_choice: bool = ggml.ggml_get_name(pointer).startswith(CHOSEN)
        if asked or not is_choice:
            return is_choice or not asked
        hit.append(len(set(_chosen(pointer))))
        return True

    return told


def _chosen(tensor: ctypes.c_void_p) -> list[int]:
    """Expert ids of a ggml tensor int32 [T, K] that is a view of wider rows.

    A ggml_tensor begins with a type, a buffer, ne[4] and nb[4].
    """
    header = ctypes.cast(tensor, ctypes.POINTER(ctypes.c_int64))
    experts, tokens, stride = header[2], header[3], header[7]
    content = (ctypes.c_uint8 * ggml.ggml_nbytes(tensor))()
    ggml.ggml_backend_tensor_get(tensor, content, ctypes.c_size_t(0), ctypes.c_size_t(len(content)))
    rows = [(ctypes.c_int32 * experts).from_buffer(content, token * stride) for token in range(tokens)]
    return [expert for row in rows for expert in row]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--mmap", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--repack", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    shown = llama_cpp.llama_log_callback(log)
    llama_cpp.llama_log_set(shown, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    model = LlamaCpp(options.model, threads=options.threads, mmap=options.mmap, repack=options.repack)
    about = {
        "llama_cpp_python": version("llama-cpp-python"),
        "ggml_commit": ggml.ggml_commit().decode(),
        "system_info": llama_cpp.llama_print_system_info().decode(),
        "threads": options.threads,
    }
    serve(model, model.vocabulary, about)


if __name__ == "__main__":
    main()
