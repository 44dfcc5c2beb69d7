"""What the make targets do: set-up, the embedded Postgres, Airflow's processes on this machine.

Nothing in here is part of the product: a deployment of one's own needs `plugins/`, `dags/` and
`sql/` only.
"""
