"""What is on disk: atomic files, snapshots and their manifest, points from which a run goes on."""
