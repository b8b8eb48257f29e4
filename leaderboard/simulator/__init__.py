"""The embedded simulator: speaks CARLA 0.9.16's RPC and streaming protocol to the unmodified client."""
