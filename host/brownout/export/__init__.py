"""A run in the formats of others: one file a format, each with `export(run, out) -> Path`. Must not judge a run."""
