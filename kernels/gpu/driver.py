"""The few calls of CUDA's driver that torch has no name for: host functions on a stream, memory that kernels reach.

Signatures are those of cuda.h. The driver's own library is opened with the first call.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p

LIBRARY = "libcuda.so.1"

# Memory that every context sees as registered, and that kernels read and write by an address.
PORTABLE, DEVICEMAP = 0x01, 0x02

SUCCESS = 0

# Of those that can be expected; the others point to a GPU or a kernel that failed before.
REMEDIES = {
    1: "please report this",
    2: "raise the limit of locked memory (ulimit -l unlimited, LimitMEMLOCK=infinity), or free memory",
    3: "use the GPU before, or check that nvidia-smi runs",
    100: "check that nvidia-smi lists a GPU, and that CUDA_VISIBLE_DEVICES does not hide it",
    201: "use the GPU on this thread before",
    712: "give back what is registered before it is registered again",
    713: "give back only what is registered",
    800: "call this from no host function, and with no graph being captured by another thread",
    801: "use a newer driver, or memory that is an ordinary mapping",
    900: "take this out of what is captured as a graph",
    901: "capture the graph anew: what failed before has ended it",
}
FAILED_BEFORE = "an earlier kernel or the GPU failed: see dmesg, and run with CUDA_LAUNCH_BLOCKING=1 to find it"

_SIGNATURES = {
    "cuInit": (c_uint,),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDevicePrimaryCtxRetain": (POINTER(c_void_p), c_int),
    "cuCtxGetCurrent": (POINTER(c_void_p),),
    "cuCtxSetCurrent": (c_void_p,),
    "cuGetErrorName": (c_int, POINTER(c_char_p)),
    "cuLaunchHostFunc": (c_void_p, c_void_p, c_void_p),
    "cuMemHostRegister_v2": (c_void_p, c_size_t, c_uint),
    "cuMemHostUnregister": (c_void_p,),
    "cuMemHostGetDevicePointer_v2": (POINTER(c_uint64), c_void_p, c_uint),
}


class DriverError(RuntimeError):
    """What the driver refused: the call, the error's name and code, then the remedy, in one line."""

    def __init__(self, call: str, name: str, code: int, remedy: str) -> None:
        super().__init__(f"{call} failed with {name} ({code}): {remedy}")
        self.call = call
        self.name = name
        self.code = code
        self.remedy = remedy


class Driver:
    """CUDA's driver, for one device.

    `device` is counted as torch counts it. Memory may be registered by any thread. Every method raises DriverError.
    """

    def __init__(self, device: int = 0, library: str = LIBRARY) -> None:
        self._device = device
        self._path = library
        self._opened: ctypes.CDLL | None = None

    def launch_host_function(self, stream: int, function: int, data: int) -> None:
        """Has CUDA call the C function at an address with `data`, after what is on a stream so far.

        A stream that is being captured gets a node that does so with each replay: function and data must live as long
        as the graph. The function must not call CUDA.
        """
        self._call("cuLaunchHostFunc", stream, function, data)

    def register(self, address: int, nbytes: int) -> None:
        """Keeps host memory where it is, for the device to read and write."""
        self._enter_context()
        self._call("cuMemHostRegister_v2", address, nbytes, PORTABLE | DEVICEMAP)

    def unregister(self, address: int) -> None:
        """Gives back what was registered from that address on."""
        self._enter_context()
        self._call("cuMemHostUnregister", address)

    def device_pointer(self, address: int) -> int:
        """The address at which kernels find a byte of registered memory."""
        self._enter_context()
        found = c_uint64()
        self._call("cuMemHostGetDevicePointer_v2", byref(found), address, 0)
        return found.value

    def _enter_context(self) -> None:
        """A thread that has not used the GPU yet gets the context that torch uses too."""
        context = c_void_p()
        self._call("cuInit", 0)
        self._call("cuCtxGetCurrent", byref(context))
        if context.value is None:
            device = c_int()
            self._call("cuDeviceGet", byref(device), self._device)
            self._call("cuDevicePrimaryCtxRetain", byref(context), device)
            self._call("cuCtxSetCurrent", context)

    def _call(self, name: str, *arguments: object) -> None:
        code = self._function(name)(*arguments)
        if code != SUCCESS:
            raise DriverError(name, self._name_of(code), code, REMEDIES.get(code, FAILED_BEFORE))

    def _name_of(self, code: int) -> str:
        text = c_char_p()
        known = self._function("cuGetErrorName")(code, byref(text)) == SUCCESS
        return text.value.decode() if known and text.value else "an unknown error"

    def _function(self, name: str) -> ctypes._NamedFuncPointer:
        try:
            function: ctypes._NamedFuncPointer = getattr(self._library, name)
        except AttributeError:
            raise DriverError(name, "no such function", -1, "install a newer NVIDIA driver") from None
        function.argtypes, function.restype = _SIGNATURES[name], c_int
        return function

    @property
    def _library(self) -> ctypes.CDLL:
        if self._opened is None:
            try:
                self._opened = ctypes.CDLL(self._path)
            except OSError as error:
                raise DriverError("opening the driver", str(error), -1, "install NVIDIA's driver") from error
        return self._opened
