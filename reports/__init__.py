"""What is left of a release for people and for later: its samples, one record, a page, and a text for a terminal."""
