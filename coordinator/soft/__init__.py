"""The parts of soft state. Plain data, no locks, no clock: `coordinator/soft_state.py` is the door and has
both."""
