"""Learning against sb3-contrib: the runs of the sweep files that users have."""
