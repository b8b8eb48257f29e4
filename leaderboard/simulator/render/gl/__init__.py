"""Cameras drawn by OpenGL on a graphics card, off-screen through EGL."""
