"""Modules that upstream's code imports and that may be missing; last on `sys.path`, so real ones go before.

`agents` comes with a CARLA installation (`PythonAPI/carla`), not with the wheel; `pkg_resources` left
setuptools, `distutils` left Python 3.12. What is here is what the leaderboards and scenario_runner call.
"""
