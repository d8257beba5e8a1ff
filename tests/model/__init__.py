"""The work protocol as a model: every interleaving of a small world, held against the laws.

`states.py` is what there is, `protocol.py` a worker's steps, `world.py` everything else and the
laws; `explorer.py` visits every state; `instances.py` has the small worlds and what each of them
shows. `replay.py` plays the same steps on a real Postgres, the `stage.py`, by the hands of
`hands.py`; `schedules.py` draws them, `planted.py` has the bugs as SQL.
`python -m tests.model` explores and shows traces.
"""
