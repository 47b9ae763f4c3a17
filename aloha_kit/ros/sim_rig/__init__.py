"""Simulated rig: arms, cameras, base and a scripted operator behind the topics and services of real drivers.

Two nodes serve it: `arms_node` (physics, drivers, operator, base) and `cameras_node`, which renders the state that
the first one publishes on /sim_rig/state.
"""
