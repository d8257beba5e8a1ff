"""The Postgres path under attack: writers and workers as processes, killed and stalled at random,
over a server that restarts and a provider that fails. `test_chaos.py` is the way in.
"""
