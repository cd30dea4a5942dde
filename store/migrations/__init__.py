"""Changes of the tables, in order. Alembic runs them when a store is opened."""
