"""The leaderboard-compatible agent and its stages; `diffusion_agent.py` is what `--agent` points at."""

if __name__ == "agents":  # pragma: no cover - only reached by a wrong sys.path
    raise ImportError(
        "this folder is `tickdrive.agents`; the name `agents` belongs to CARLA's PythonAPI. "
        "Put CARLA's PythonAPI/carla before tickdrive's folder on PYTHONPATH, or leave tickdrive's folder."
    )
