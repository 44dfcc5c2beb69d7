"""What people read: the run's table, alerts, and the questions of the review DAG."""
