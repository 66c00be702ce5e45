"""The artifact store, and the DuckDB side of it: dbt_like_sql and the warehouse catalog."""
