"""One file per area; each holds a blueprint called `views`. A view decodes, asks the agent, and encodes."""
