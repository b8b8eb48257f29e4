"""Stand-in for CARLA's `PythonAPI/carla/agents`: what scenario_runner and `npc_agent` drive with."""
