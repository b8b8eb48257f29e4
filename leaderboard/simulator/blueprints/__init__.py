"""Blueprint library: vehicles, walkers, props and sensors with their attributes and sizes."""
