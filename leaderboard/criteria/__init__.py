"""Infractions and ends of a route, as upstream's scenario_runner defines them."""
