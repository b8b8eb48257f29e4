"""CARLA 0.9.16 wire formats, RPC server and sensor streams."""
