"""Random schedules of the whole router: processes, servers, faults, clocks and crashes, simulated.

`world.py` runs the calls of several processes at once under one clock; `servers.py` plays the
services and keeps their own record; `schedules.py` draws a schedule from a seed; `laws.py` holds
what happened against the laws. `job.py` plays one large job instead, in which all goes well.
`python -m tests.simulation SEED` shows one schedule step by step.
"""
