"""What agents are judged against."""
