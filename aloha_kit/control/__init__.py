"""From chunks of actions to single actions, in the control loop or beside it. Needs numpy alone.

Import from the modules: `execution` executes chunks or averages them, `chunk_boundary` decides when the next one is due
and how it takes over, `async_inference` runs that in real time in a thread, `simulated_latency` in virtual time.
"""
