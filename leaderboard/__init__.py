"""Routes, evaluation, criteria, scores and results; the embedded simulator lives in `simulator/`."""

if __name__ == "leaderboard":  # pragma: no cover - only reached by a wrong sys.path
    raise ImportError(
        "this folder is `tickdrive.leaderboard`; the name `leaderboard` belongs to the CARLA leaderboard. "
        "Put the upstream checkout before tickdrive's folder on PYTHONPATH, or leave tickdrive's folder."
    )
