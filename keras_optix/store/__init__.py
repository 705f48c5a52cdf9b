"""Everything that is stored on disk: atomic files, snapshots and their manifest, and resume points."""
