"""How processes speak: errors on the wire, channels, mutual trust, and the stub that follows the leader."""
