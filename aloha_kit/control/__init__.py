"""Chunk execution: single actions from chunks, with inference in the control loop or beside it. Needs numpy alone.

Import from the modules: `execution` executes chunks or averages them, `chunk_boundary` schedules the next inference
and the transition between chunks, `async_inference` runs that in real time in a thread, `simulated_latency` in virtual
time.
"""
