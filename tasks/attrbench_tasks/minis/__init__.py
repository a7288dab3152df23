"""Small tasks that run on a laptop: models of a few MB, trained for real and shipped."""
