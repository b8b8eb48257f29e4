"""Which renderer draws the cameras: `cpu`, `egl`, or `auto`."""

from __future__ import annotations

import logging

from tickdrive.leaderboard.simulator.render.cpu_pictures import CpuMaker
from tickdrive.leaderboard.simulator.render.pictures import PicturesMaker
from tickdrive.planner.errors import ConfigError, ServerError, did_you_mean

log = logging.getLogger(__name__)

RENDERERS = ("cpu", "egl", "auto")
NO_CARD = "no graphics card that OpenGL could draw on"


def check_renderer(name: str) -> str:
    """The name, if it is one of `RENDERERS`.

    Raises:
        ConfigError: it is not.
    """
    if name not in RENDERERS:
        raise ConfigError(f"There is no renderer {name!r}.", did_you_mean(name, RENDERERS))
    return name


def choose_pictures(renderer: str, threads: int = 1) -> PicturesMaker:
    """What draws the cameras of all towns of this process.

    Args:
        renderer: `cpu`; `egl`, a graphics card by OpenGL, or what plays one; `auto`, a graphics card where
            there is one, else the processor.
        threads: of the processor's renderer.

    Raises:
        ConfigError: an unknown renderer.
        ServerError: `egl`, and there is no EGL, OpenGL 4.3 or moderngl, or a shader is refused.
    """
    if check_renderer(renderer) == "cpu":
        return CpuMaker(threads)
    # neither OpenGL nor its shaders are loaded where nobody asks for them
    from tickdrive.leaderboard.simulator.render.gl.device import open_device
    from tickdrive.leaderboard.simulator.render.gl.pictures import EglMaker

    try:
        return EglMaker(open_device(software=renderer == "egl"))
    except ServerError as error:
        if renderer == "egl":
            raise
        log.warning("renderer auto: cameras are drawn by the processor. %s", error)
        return CpuMaker(threads, NO_CARD)
