"""What composes rooms: sweeps, tuning, validation, demo, live view, doctor."""
