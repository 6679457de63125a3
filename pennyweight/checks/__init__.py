"""What a user's checkpoint must be before anything is built of it: whole, finite, and what its config says."""
