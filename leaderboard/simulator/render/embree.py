"""Embree 4 through its C API: the shared library of the `embreex` wheel, called from numba in packets of 16.

embreex's own Python classes know neither instances nor packets of rays from compiled code, which a scene of
moving actors traced within a tick needs. The constants are those of Embree 4's headers (`rtcore_geometry.h`,
`rtcore_buffer.h`, `rtcore_common.h`); the packet's layout is `RTCRayHit16` of `rtcore_ray.h`.
"""

from __future__ import annotations

import ctypes
import glob
import importlib.util
import os
import weakref
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import llvmlite.binding
import numpy as np
from numba import types
from numba.core.types import ExternalFunction

from tickdrive.planner.errors import ServerError

_TRIANGLES, _INSTANCE = 0, 121
_INDEX_BUFFER, _VERTEX_BUFFER = 0, 1
_UINT3, _FLOAT3, _FLOAT3X4_ROW_MAJOR = 0x5003, 0x9003, 0x9134
_QUALITY_LOW, _QUALITY_HIGH = 0, 2
_SCENE_DYNAMIC = 1
# rows of 16 in RTCRayHit16
PACKET_ROWS = 21
ABSENT = 0xFFFFFFFF

# resolved by name when a cached kernel is loaded, hence no address gets into numba's cache
_KERNEL_SIGNATURE = types.void(types.intp, types.intp, types.intp, types.intp)
intersect16: Any = ExternalFunction("tickdrive_rtcIntersect16", _KERNEL_SIGNATURE)
occluded16: Any = ExternalFunction("tickdrive_rtcOccluded16", _KERNEL_SIGNATURE)

_pointer, _uint, _int, _size = ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_size_t
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "rtcNewDevice": (_pointer, ctypes.c_char_p),
    "rtcGetDeviceError": (_int, _pointer),
    "rtcNewScene": (_pointer, _pointer),
    "rtcReleaseScene": (None, _pointer),
    "rtcCommitScene": (None, _pointer),
    "rtcSetSceneFlags": (None, _pointer, _int),
    "rtcSetSceneBuildQuality": (None, _pointer, _int),
    "rtcNewGeometry": (_pointer, _pointer, _int),
    "rtcReleaseGeometry": (None, _pointer),
    "rtcCommitGeometry": (None, _pointer),
    "rtcEnableGeometry": (None, _pointer),
    "rtcDisableGeometry": (None, _pointer),
    "rtcAttachGeometry": (_uint, _pointer, _pointer),
    "rtcAttachGeometryByID": (None, _pointer, _pointer, _uint),
    "rtcSetNewGeometryBuffer": (_pointer, _pointer, _int, _uint, _int, _size, _size),
    "rtcSetGeometryInstancedScene": (None, _pointer, _pointer),
    "rtcSetGeometryTransform": (None, _pointer, _uint, _int, _pointer),
}


@lru_cache(maxsize=1)
def load_embree() -> ctypes.CDLL:
    """The Embree library of the installed `embreex` wheel, ready for the kernels to call.

    Raises:
        ServerError: embreex is not installed, or its library cannot be loaded here.
    """
    mend = "Install it with: pip install 'embreex>=2.17.7' (it is part of tickdrive[sim])."
    found = importlib.util.find_spec("embreex")
    if found is None or not found.origin:
        raise ServerError(
            "The package 'embreex' (Embree ray tracing: LiDAR and shadows) is not installed.", mend
        )
    package = os.path.dirname(found.origin)
    folders = [
        os.path.join(os.path.dirname(package), "embreex.libs"),
        os.path.join(package, ".dylibs"),
        package,
    ]

    def library(stem: str) -> str | None:
        hits = [path for folder in folders for path in sorted(glob.glob(os.path.join(folder, f"lib{stem}*")))]
        return hits[0] if hits else None

    path = library("embree4")
    if path is None:
        raise ServerError(f"The package 'embreex' in {package} brings no Embree 4 library.", mend)
    try:
        threading = library("tbb")
        if threading is not None:
            ctypes.CDLL(threading, mode=ctypes.RTLD_GLOBAL)
        embree = ctypes.CDLL(path)
        for name, (result, *arguments) in _SIGNATURES.items():
            function = getattr(embree, name)
            function.restype, function.argtypes = result, arguments
        for name in ("rtcIntersect16", "rtcOccluded16"):
            address = ctypes.cast(getattr(embree, name), ctypes.c_void_p).value
            llvmlite.binding.add_symbol(f"tickdrive_{name}", address)
    except (OSError, AttributeError) as error:
        raise ServerError(f"The library of the package 'embreex' cannot be used: {error}.", mend) from error
    return embree


@lru_cache(maxsize=1)
def embree_device() -> int:
    """Embree's device, one for the process.

    With a second one, a worker thread of TBB's spins for as long as the process lives (embreex 4.4): a
    simulator that had loaded another town took a whole core at rest.

    Raises:
        ServerError: Embree cannot be loaded or refuses a device.
    """
    rtc = load_embree()
    # one thread: the build order, and with it every tie, is the same in every run
    device = rtc.rtcNewDevice(b"threads=1,set_affinity=0")
    if not device:
        code = rtc.rtcGetDeviceError(None)
        raise ServerError(f"Embree (package 'embreex') cannot start on this processor: error {code}.")
    return int(device)


@dataclass
class _Slot:
    geometry: int
    mesh: int
    enabled: bool


class TraceWorld:
    """A static mesh and moving instances of meshes, to trace rays through.

    Args:
        vertices: (V, 3) float32 of the static mesh, world frame.
        faces: (F, 3) int.

    Raises:
        ServerError: Embree cannot be loaded or refuses a device.
    """

    def __init__(self, vertices: np.ndarray, faces: np.ndarray) -> None:
        self._rtc = load_embree()
        self._device = embree_device()
        self._slots: list[_Slot] = []
        self._top = self._rtc.rtcNewScene(self._device)
        self._rtc.rtcSetSceneFlags(self._top, _SCENE_DYNAMIC)
        self._rtc.rtcSetSceneBuildQuality(self._top, _QUALITY_LOW)
        self._scenes: list[int] = []
        # the towns that a server lets go of must not keep their triangles
        self._release = weakref.finalize(self, _release, self._rtc, self._top, self._slots, self._scenes)
        static = self.add_mesh(vertices, faces)
        self._add_slot(static)
        self._place(self._slots[0], np.eye(4)[:3])
        self._rtc.rtcCommitScene(self._top)

    @property
    def handle(self) -> int:
        """Address of the scene, for the kernels."""
        return int(self._top)

    def add_mesh(self, vertices: np.ndarray, faces: np.ndarray) -> int:
        """Make a mesh known that instances can show; returns its handle. (V, 3) float32 and (F, 3) int."""
        rtc = self._rtc
        scene = rtc.rtcNewScene(self._device)
        rtc.rtcSetSceneBuildQuality(scene, _QUALITY_HIGH if len(faces) < 400_000 else 1)
        geometry = rtc.rtcNewGeometry(self._device, _TRIANGLES)
        for kind, form, array in (
            (_VERTEX_BUFFER, _FLOAT3, np.ascontiguousarray(vertices, np.float32)),
            (_INDEX_BUFFER, _UINT3, np.ascontiguousarray(faces, np.uint32)),
        ):
            if len(array):
                buffer = rtc.rtcSetNewGeometryBuffer(geometry, kind, 0, form, 12, len(array))
                ctypes.memmove(buffer, array.ctypes.data, array.nbytes)
        rtc.rtcCommitGeometry(geometry)
        rtc.rtcAttachGeometry(scene, geometry)
        rtc.rtcReleaseGeometry(geometry)
        rtc.rtcCommitScene(scene)
        self._scenes.append(scene)
        return int(scene)

    def set_instances(self, meshes: list[int], matrices: np.ndarray) -> None:
        """Show these instances and no others.

        Args:
            meshes: handles from `add_mesh`; hits on the k-th report instance k + 1.
            matrices: (N, 3, 4) mesh frame to world.
        """
        for k, mesh in enumerate(meshes):
            if k + 1 == len(self._slots):
                self._add_slot(mesh)
            slot = self._slots[k + 1]
            if slot.mesh != mesh:
                self._rtc.rtcSetGeometryInstancedScene(slot.geometry, mesh)
                slot.mesh = mesh
            if not slot.enabled:
                self._rtc.rtcEnableGeometry(slot.geometry)
                slot.enabled = True
            self._place(slot, matrices[k])
        for slot in self._slots[len(meshes) + 1 :]:
            if slot.enabled:
                self._rtc.rtcDisableGeometry(slot.geometry)
                slot.enabled = False
        self._rtc.rtcCommitScene(self._top)

    def close(self) -> None:
        """Give Embree's memory back; the world cannot be used afterwards."""
        self._release()

    def _add_slot(self, mesh: int) -> None:
        geometry = self._rtc.rtcNewGeometry(self._device, _INSTANCE)
        self._rtc.rtcSetGeometryInstancedScene(geometry, mesh)
        self._rtc.rtcAttachGeometryByID(self._top, geometry, len(self._slots))
        self._slots.append(_Slot(geometry, mesh, True))

    def _place(self, slot: _Slot, matrix: np.ndarray) -> None:
        rows = np.ascontiguousarray(matrix, np.float32)
        self._rtc.rtcSetGeometryTransform(slot.geometry, 0, _FLOAT3X4_ROW_MAJOR, rows.ctypes.data)
        self._rtc.rtcCommitGeometry(slot.geometry)


def _release(rtc: ctypes.CDLL, top: int, slots: list[_Slot], scenes: list[int]) -> None:
    for slot in slots:
        rtc.rtcReleaseGeometry(slot.geometry)
    for scene in (top, *scenes):
        rtc.rtcReleaseScene(scene)


# the symbols must exist before numba loads a cached kernel that calls them
load_embree()
