"""The towns that ship (OpenDRIVE) and what is read from a town: lights, signs, spawn points."""
