"""What src/abi.h declares, for ctypes."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_char_p, c_float, c_int, c_int32, c_int64, c_void_p

OK, NONFINITE, ABSENT, DAMAGED, NO_MEMORY = range(5)


class CMatrix(ctypes.Structure):
    """aa_matrix: a matrix by its addresses, or its offsets within a blob."""

    _fields_ = (
        ("bits", c_int32),
        ("group", c_int32),
        ("scale_is_fp16", c_int32),
        ("partials", c_int32),
        ("rows", c_int64),
        ("columns", c_int64),
        ("weights", c_void_p),
        ("scales", c_void_p),
        ("zeros", c_void_p),
        ("has_zeros", c_int32),
        ("padding", c_int32),
    )


class CInPlaceTask(ctypes.Structure):
    """aa_in_place_task: what the host computes in a layer step of a GPU."""

    _fields_ = (
        ("words", c_void_p),
        ("pairs", c_void_p),
        ("q", c_void_p),
        ("scales", c_void_p),
        ("outputs", c_void_p),
        ("fault", c_void_p),
        ("frames", c_int64),
        ("frame_count", c_int64),
        ("blob_bytes", c_int64),
        ("most_experts", c_int64),
        ("most_rows", c_int64),
        ("per_token", c_int64),
        ("awake", c_int64),
        ("gate_up", CMatrix),
        ("down", CMatrix),
        ("calls", c_int64),
        ("experts", c_int64),
        ("nanoseconds", c_int64),
    )


class CStageTask(ctypes.Structure):
    """aa_stage_task: what the host copies to where a GPU can read it."""

    _fields_ = (
        ("count", c_void_p),
        ("moves", c_void_p),
        ("ring", c_void_p),
        ("fault", c_void_p),
        ("frames", c_int64),
        ("frame_count", c_int64),
        ("blob_bytes", c_int64),
        ("most", c_int64),
        ("columns", c_int64),
        ("calls", c_int64),
        ("blobs", c_int64),
        ("bytes", c_int64),
        ("nanoseconds", c_int64),
    )


# One letter for each argument, after the result's.
_TYPES = {
    "v": None,
    "s": c_char_p,
    "i": c_int,
    "l": c_int64,
    "f": c_float,
    "p": c_void_p,
    "m": POINTER(CMatrix),
}

SIGNATURES = {
    "aa_variant": "s:",
    "aa_probe": "i:",
    "aa_set_threads": "v:i",
    "aa_threads": "i:",
    "aa_rms_norm": "i:ppifllp",
    "aa_linear": "i:plmpp",
    "aa_swiglu": "i:plmmpp",
    "aa_experts": "i:plpplplllimmmmipp",
    "aa_route": "i:pllpipllllfpp",
    "aa_query_key_value": "i:plpfmplllpplpppilp",
    "aa_paged_attention": "i:pllllppilplpfp",
    "aa_head": "i:plmlppppplpppp",
    "aa_in_place": "v:p",
    "aa_stage": "v:p",
}


def declare(library: ctypes.CDLL) -> ctypes.CDLL:
    """Gives every function of a library its types."""
    for name, signature in SIGNATURES.items():
        function = getattr(library, name, None)
        if function is not None:
            result, _, arguments = signature.partition(":")
            function.restype = _TYPES[result]
            function.argtypes = [_TYPES[letter] for letter in arguments]
    return library
