"""A project of Dagster that trains language models beside whatever else it does."""
