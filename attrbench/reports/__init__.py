"""What is made of records: rankings, tables, contact sheets."""
