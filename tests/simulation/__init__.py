"""Three coordinators' consensus in one thread: production code under a seeded schedule, network, disks and clocks."""
