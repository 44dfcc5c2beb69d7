"""A real browser on a real Airflow: the processes, the history shown, the vendored files."""
