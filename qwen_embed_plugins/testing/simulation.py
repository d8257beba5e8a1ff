"""Flows under a simulated clock, for tests; `qwen-embed route` rehearses with the same."""

from qwen_embed_plugins.simulated import Served, SimulatedClock, SimulatedDriver, Stuck

__all__ = ["Served", "SimulatedClock", "SimulatedDriver", "Stuck"]
