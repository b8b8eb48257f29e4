"""Runs the CARLA leaderboards and Bench2Drive as their authors wrote them: `tickdrive evaluate --suite …`."""
