"""Do two questions have the same answer? What the cache of similar questions decides by, and how that is bounded."""
