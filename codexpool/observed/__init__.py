"""The parts of observe mode: the pool that is consulted, a request that is observed, and what a flow shows of it."""
