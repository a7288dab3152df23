"""Reports made from the records of runs: leaderboards as tables, and contact sheets of images."""
