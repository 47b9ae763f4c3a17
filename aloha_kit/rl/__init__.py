"""Actor-critic reinforcement learning in simulation, on Stable-Baselines3 (the extra `rl`).

A task is an ordinary `Environment`; a trained policy is an ordinary `Policy`, so that evaluation, videos and exported
episodes come from the same loop, guard and writer as everything else.
"""
