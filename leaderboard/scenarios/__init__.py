"""The scenarios of route files: what happens on the road while a route is driven."""
