"""What src/abi.h declares, for ctypes."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_char_p, c_float, c_int, c_int32, c_int64, c_void_p

OK, NONFINITE, ABSENT = 0, 1, 2


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
