"""What people do with a dictionary once they have one."""
