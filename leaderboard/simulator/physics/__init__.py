"""Vehicle dynamics, walkers and collisions."""
