"""The owner's work: roles, migrations, reference data, dropping and folding old polls."""
