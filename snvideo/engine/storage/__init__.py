"""What a run leaves on a disk, so that nothing is lost when it is stopped or the disk is full."""
