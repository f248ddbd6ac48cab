"""What people read: reports and leaderboards."""
