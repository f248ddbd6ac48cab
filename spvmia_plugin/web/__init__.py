"""What the report's page and the leaderboard's share: frame, colours, numbers and names as they are shown, drawing."""
