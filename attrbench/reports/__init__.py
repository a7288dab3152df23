"""Reports made from records: leaderboards, tables, contact sheets."""
