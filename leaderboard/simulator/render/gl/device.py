"""The graphics card: a context of OpenGL without a window, on a thread of its own.

A context belongs to one thread, and towns are built on another than they are drawn on. So one thread holds
the context for the life of the process, and everything that speaks OpenGL is a job for it. Buffers of towns
that are let go are freed there as well, before its next job (moderngl's `context_gc`).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from tickdrive.planner.errors import ServerError

#: OpenGL 4.3: storage buffers and indirect draws
GL_VERSION = 430
_MOST_DEVICES = 16
_SOFTWARE = ("llvmpipe", "softpipe", "swrast", "swiftshader", "software")
_INSTALL = "Install it with: pip install 'tickdrive[egl]' (moderngl), or draw with --renderer cpu."
_DRIVER = (
    "Draw with --renderer cpu, or give this machine a driver with EGL and OpenGL 4.3: NVIDIA's, or Mesa's "
    "(Debian: libegl1, libgl1, libegl-mesa0). In a container NVIDIA_DRIVER_CAPABILITIES must hold 'graphics'."
)
Result = TypeVar("Result")


class NoEgl(ServerError):
    """There is no OpenGL here that can draw; the message says what is missing."""


class GlDevice:
    """A context and its thread; see `open_device`.

    Attributes:
        renderer: OpenGL's name of the card.
        version: of OpenGL, with the driver's.
        software: whether the processor plays the card.
        context: moderngl's; only jobs of `do` may use it.
    """

    def __init__(self, thread: ThreadPoolExecutor, context: Any, refusal: type[Exception]) -> None:
        self.context = context
        self._refusal = refusal
        self.renderer = str(context.info["GL_RENDERER"])
        self.version = str(context.info["GL_VERSION"])
        self.software = any(word in self.renderer.lower() for word in _SOFTWARE)
        self._thread = thread

    @property
    def description(self) -> str:
        """The card, for people."""
        return f"{self.renderer}, OpenGL {self.version}"

    def do(self, job: Callable[[], Result]) -> Result:
        """Run a job on the context's thread, and wait for it.

        Raises:
            ServerError: OpenGL reports an error: no memory left, or the context is lost.
        """
        return self._thread.submit(self._checked, job).result()

    def _checked(self, job: Callable[[], Result]) -> Result:
        self.context.gc()
        try:
            result = job()
        except self._refusal as error:
            raise self._failed(str(error)) from error
        finally:
            code = self.context.error  # also where the job failed, or the next one would be told of it
        if code != "GL_NO_ERROR":
            raise self._failed(code)
        return result

    def close(self) -> None:
        """Give the context back and end the thread."""
        self._thread.submit(self.context.release).result()
        self._thread.shutdown()

    def _failed(self, what: str) -> ServerError:
        return ServerError(
            f"OpenGL on {self.renderer} failed: {what}.",
            "The card may be out of memory, or its driver was reset (see the kernel's log); start the "
            "simulator again, with --renderer cpu if it comes back.",
        )


def open_device(software: bool = True) -> GlDevice:
    """The first graphics card that EGL lists, else what the processor can play (Mesa's llvmpipe).

    glcontext's variables choose among several: `GLCONTEXT_DEVICE_INDEX`, `GLCONTEXT_LINUX_LIBEGL`,
    `GLCONTEXT_LINUX_LIBGL`.

    Args:
        software: whether what the processor plays will do.

    Raises:
        NoEgl: moderngl, EGL or OpenGL 4.3 is missing; the message says which, and what each device said. Or
            there is no card, and nothing else will do.
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="opengl")
    try:
        return thread.submit(_open_on_this_thread, thread, software).result()
    except BaseException:
        thread.shutdown(wait=False)
        raise


def _open_on_this_thread(thread: ThreadPoolExecutor, software: bool) -> GlDevice:
    try:
        import moderngl
    except ImportError as error:
        raise NoEgl(f"The package moderngl is missing ({error}).", _INSTALL) from error
    # its annotations do not fit what it takes
    create_context: Any = moderngl.create_context
    settings = {
        "require": GL_VERSION,
        "standalone": True,
        "backend": "egl",
        "libegl": _library("EGL", "libEGL.so.1"),
        "libgl": _library("OpenGL", "libGL.so.1", "libOpenGL.so.0"),
    }
    said: list[str] = []
    found: list[GlDevice] = []
    # where one is chosen, every number means that one
    for index in range(1 if "GLCONTEXT_DEVICE_INDEX" in os.environ else _MOST_DEVICES):
        try:
            context = create_context(device_index=index, **settings)
        except Exception as error:  # bare exceptions of many kinds
            said.append(f"device {index}: {error}")
            if "requested device index" in str(error):
                break
            continue
        found.append(GlDevice(thread, context, moderngl.Error))
        if not found[-1].software:
            break
    if not found:
        raise NoEgl(f"EGL offers no OpenGL 4.3 here: {'; '.join(said)}.", _DRIVER)
    best = min(found, key=lambda device: device.software)
    for other in found:
        if other is not best:
            other.context.release()
    if best.software and not software:
        best.context.release()
        raise NoEgl(f"The only OpenGL here is {best.renderer}, which the processor plays.", _DRIVER)
    best.context.__enter__()  # another that was tried may be the thread's current one
    best.context.gc_mode = "context_gc"
    return best


def _library(what: str, *names: str) -> str:
    """The first of these libraries that can be loaded; glcontext itself looks for the development links."""
    for name in names:
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return name
    raise NoEgl(f"The library of {what} ({' or '.join(names)}) is missing.", _DRIVER)
