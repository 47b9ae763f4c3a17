"""A rig without a rig: simulated arms, cameras, base and person behind the topics and services of real drivers.

Two nodes serve it: `arms_node` (physics, drivers, person, base) and the cameras' node, which draws what
the first one says of itself on /sim_rig/state.
"""
