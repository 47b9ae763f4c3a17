"""From chunks of actions to single actions, in the control loop or beside it. Needs numpy alone.

Import what you need from its module: `execution` plays chunks or averages them, `seam` decides when the next one is due
and how it takes over, `asynchronous` runs that in real time in a thread, `delayed` in virtual time.
"""
