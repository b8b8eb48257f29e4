"""The diffusion planner: network, sampling, engines, checkpoints, training. Never imports carla."""
