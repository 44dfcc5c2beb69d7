"""Alembic's entry: runs the migrations over the connection of `record.upkeep.migrate`."""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    version_table_schema="attr_audit_internal",
)
with context.begin_transaction():
    context.run_migrations()
