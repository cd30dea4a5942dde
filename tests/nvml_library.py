"""The C library libnvidia-ml.so.1 of a machine that a test describes, under the real Python bindings.

Its functions are C callbacks that fill the structures of ``nvml.h`` (written down here once more from that header, so
that the bindings' own are tested too) and answer with its return codes. ``bindings(driver)`` is a fresh copy of the
module ``pynvml`` on top of it: where the library is already loaded (its public ``nvmlLib``), it loads none.
"""

from __future__ import annotations

import ctypes as c
import importlib.util
import sys
from dataclasses import dataclass, field
from types import ModuleType

import pynvml

SUCCESS, UNINITIALIZED, INVALID_ARGUMENT, NOT_SUPPORTED, NO_PERMISSION, NOT_FOUND = 0, 1, 2, 3, 4, 6
INSUFFICIENT_SIZE, DRIVER_NOT_LOADED, LIB_RM_VERSION_MISMATCH, GPU_IS_LOST = 7, 9, 18, 15
P2P_OK, P2P_NOT_SUPPORTED, P2P_NVLINK = 0, 5, 2
GIB = 1024**3


class Memory(c.Structure):
    """nvmlMemory_t"""

    _fields_ = [("total", c.c_ulonglong), ("free", c.c_ulonglong), ("used", c.c_ulonglong)]


class Utilization(c.Structure):
    """nvmlUtilization_t: percent"""

    _fields_ = [("gpu", c.c_uint), ("memory", c.c_uint)]


class ProcessInfo(c.Structure):
    """nvmlProcessInfo_t, as it is since the second version"""

    _fields_ = [("pid", c.c_uint), ("used", c.c_ulonglong), ("gpu_instance", c.c_uint), ("compute_instance", c.c_uint)]


@dataclass
class Device:
    """A GPU or a MIG instance. A value that is None is answered with NVML_ERROR_NOT_SUPPORTED."""

    uuid: str
    name: str = "NVIDIA H100 80GB HBM3"
    total: int | None = 80 * GIB
    used: int = 1 * GIB
    capability: tuple[int, int] | None = (9, 0)
    processes: list[tuple[int, int | None]] | None = field(default_factory=list)  # None: bytes not told
    peers: set[str] = field(default_factory=set)  # over NVLink
    numa: int | None = 0
    percent: int | None = 0
    milliwatts: int | None = 100_000
    millijoules: int | None = 0
    celsius: int | None = 40
    ecc: tuple[int, int] | None = (0, 0)
    reasons: int | None = 1  # idle
    lost: bool = False
    mig: list[Device] | None = None  # None: it has no such mode


@dataclass
class Driver:
    """What the library finds. ``missing`` are functions that this version does not have, ``init`` its first answer."""

    devices: list[Device] = field(default_factory=list)
    version: str = "580.95.05"
    init: int = SUCCESS
    missing: frozenset[str] = frozenset()
    opened: int = 0
    calls: list[str] = field(default_factory=list)

    def at(self, handle: int | None) -> Device:
        """The device of a handle: 0x1000 a GPU, and its MIG instances behind it."""
        device = self.devices[(handle or 0) // 0x1000 - 1]
        return device.mig[handle % 0x1000 - 1] if handle % 0x1000 and device.mig else device


def bindings(driver: Driver) -> ModuleType:
    """The real bindings on this driver."""
    spec = importlib.util.spec_from_file_location("bindings_of_nvml", pynvml.__file__)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where the module looks for itself while it is loaded
    spec.loader.exec_module(module)
    del sys.modules[spec.name]
    module.nvmlLib = Library(driver)
    return module


class Library:
    """What ``ctypes.CDLL`` gives: functions as attributes, AttributeError for a symbol that is not there."""

    def __init__(self, driver: Driver):
        self._driver = driver

    def __getattr__(self, symbol: str):
        body = _FUNCTIONS.get(symbol)
        if body is None or symbol in self._driver.missing:
            raise AttributeError(symbol)
        driver, function, arguments = self._driver, *body

        def answer(*values):
            driver.calls.append(symbol)
            if symbol == "nvmlInitWithFlags":
                driver.opened += driver.init == SUCCESS
                return driver.init
            return function(driver, *values) if driver.opened else UNINITIALIZED

        setattr(self, symbol, c.CFUNCTYPE(c.c_int, *arguments)(answer))
        return getattr(self, symbol)


_FUNCTIONS: dict = {"nvmlInitWithFlags": (None, (c.c_uint,))}
_DEVICE, _OUT, _UINT, _ENUM = c.c_void_p, c.c_void_p, c.c_uint, c.c_uint


def _symbol(name: str, *arguments):
    """Register a function of the library under its C name."""

    def register(function):
        _FUNCTIONS[name] = (function, arguments)
        return function

    return register


def _put(out: int, kind, value) -> int:
    """``*out = value``; NOT_SUPPORTED for None."""
    if value is None:
        return NOT_SUPPORTED
    c.cast(out, c.POINTER(kind))[0] = value
    return SUCCESS


def _text(out: int, length: int, value: str) -> int:
    data = value.encode() + b"\0"
    if len(data) > length:
        return INSUFFICIENT_SIZE
    c.memmove(out, data, len(data))
    return SUCCESS


def _getter(name: str, kind, attribute: str) -> None:
    """nvmlReturn_t name(nvmlDevice_t, kind *)"""
    _symbol(name, _DEVICE, _OUT)(lambda driver, device, out: _put(out, kind, getattr(driver.at(device), attribute)))


_getter("nvmlDeviceGetPowerUsage", c.c_uint, "milliwatts")
_getter("nvmlDeviceGetTotalEnergyConsumption", c.c_ulonglong, "millijoules")
_getter("nvmlDeviceGetCurrentClocksEventReasons", c.c_ulonglong, "reasons")
_getter("nvmlDeviceGetCurrentClocksThrottleReasons", c.c_ulonglong, "reasons")


@_symbol("nvmlShutdown")
def _shutdown(driver):
    driver.opened -= 1
    return SUCCESS


@_symbol("nvmlSystemGetDriverVersion", _OUT, _UINT)
def _driver_version(driver, out, length):
    return _text(out, length, driver.version)


@_symbol("nvmlDeviceGetCount_v2", _OUT)
def _count(driver, out):
    return _put(out, c.c_uint, len(driver.devices))


@_symbol("nvmlDeviceGetHandleByIndex_v2", _UINT, _OUT)
def _handle(driver, index, out):
    if index >= len(driver.devices):
        return INVALID_ARGUMENT
    return GPU_IS_LOST if driver.devices[index].lost else _put(out, c.c_void_p, 0x1000 * (index + 1))


@_symbol("nvmlDeviceGetUUID", _DEVICE, _OUT, _UINT)
def _uuid(driver, device, out, length):
    return _text(out, length, driver.at(device).uuid)


@_symbol("nvmlDeviceGetName", _DEVICE, _OUT, _UINT)
def _name(driver, device, out, length):
    return _text(out, length, driver.at(device).name)


@_symbol("nvmlDeviceGetMemoryInfo", _DEVICE, _OUT)
def _memory(driver, device, out):
    it = driver.at(device)
    return NOT_SUPPORTED if it.total is None else _put(out, Memory, Memory(it.total, it.total - it.used, it.used))


@_symbol("nvmlDeviceGetCudaComputeCapability", _DEVICE, _OUT, _OUT)
def _capability(driver, device, major, minor):
    one, other = driver.at(device).capability or (None, None)
    return _put(major, c.c_int, one) or _put(minor, c.c_int, other)


@_symbol("nvmlDeviceGetMigMode", _DEVICE, _OUT, _OUT)
def _mig_mode(driver, device, current, pending):
    mig = driver.at(device).mig
    return NOT_SUPPORTED if mig is None else _put(current, c.c_uint, 1) or _put(pending, c.c_uint, 1)


@_symbol("nvmlDeviceGetMaxMigDeviceCount", _DEVICE, _OUT)
def _mig_count(driver, device, out):
    return _put(out, c.c_uint, 7 if driver.at(device).mig is not None else 0)


@_symbol("nvmlDeviceGetMigDeviceHandleByIndex", _DEVICE, _UINT, _OUT)
def _mig_handle(driver, device, index, out):
    there = index < len(driver.at(device).mig or ())
    return _put(out, c.c_void_p, device + index + 1) if there else NOT_FOUND


@_symbol("nvmlDeviceGetP2PStatus", _DEVICE, _DEVICE, _ENUM, _OUT)
def _p2p(driver, one, other, index, out):
    linked = index == P2P_NVLINK and driver.at(other).uuid in driver.at(one).peers
    return _put(out, c.c_int, P2P_OK if linked else P2P_NOT_SUPPORTED)


def _running(driver, device, count, out):
    """The count first: with too small an array the number that there are, and INSUFFICIENT_SIZE."""
    found = driver.at(device).processes
    if found is None:
        return NOT_SUPPORTED
    room = c.cast(count, c.POINTER(c.c_uint))
    given, room[0] = room[0], len(found)
    if len(found) > given:
        return INSUFFICIENT_SIZE
    for place, (pid, used) in enumerate(found):
        unknown = c.c_ulonglong(-1).value  # NVML_VALUE_NOT_AVAILABLE
        c.cast(out, c.POINTER(ProcessInfo))[place] = ProcessInfo(pid, unknown if used is None else used, 0, 0)
    return SUCCESS


for _version in ("v2", "v3"):
    _symbol(f"nvmlDeviceGetComputeRunningProcesses_{_version}", _DEVICE, _OUT, _OUT)(_running)


@_symbol("nvmlDeviceGetMemoryAffinity", _DEVICE, _UINT, _OUT, _UINT)
def _affinity(driver, device, words, out, scope):
    node = driver.at(device).numa
    if node is None:
        return NOT_SUPPORTED
    for word in range(words):
        c.cast(out, c.POINTER(c.c_ulong))[word] = 1 << node % 64 if word == node // 64 else 0
    return SUCCESS


@_symbol("nvmlDeviceGetUtilizationRates", _DEVICE, _OUT)
def _utilization(driver, device, out):
    percent = driver.at(device).percent
    return _put(out, Utilization, None if percent is None else Utilization(percent, 0))


@_symbol("nvmlDeviceGetTemperature", _DEVICE, _ENUM, _OUT)
def _temperature(driver, device, sensor, out):
    return INVALID_ARGUMENT if sensor else _put(out, c.c_uint, driver.at(device).celsius)


@_symbol("nvmlDeviceGetTotalEccErrors", _DEVICE, _ENUM, _ENUM, _OUT)
def _ecc(driver, device, kind, counter, out):
    found = driver.at(device).ecc
    return _put(out, c.c_ulonglong, None if found is None else found[kind])
