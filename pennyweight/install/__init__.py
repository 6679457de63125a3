"""Environments of engines that cannot share ours: how one is made, found and removed."""
