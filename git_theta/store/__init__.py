"""Where objects are kept and how they travel. Knows objects, not manifests."""
