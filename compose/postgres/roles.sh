# The postgres image runs this once, on an empty data folder: two separate databases, and a login
# for each of their clients. The passwords stay in the environment: none is on a command line.
psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --username="${POSTGRES_USER:-postgres}" \
    --dbname=postgres <<'SQL'
\getenv airflow AIRFLOW_DB_PASSWORD
\getenv migrator AUDIT_MIGRATOR_PASSWORD
\getenv writer AUDIT_WRITER_PASSWORD
\getenv reader AUDIT_READER_PASSWORD
\getenv sealer AUDIT_SEALER_PASSWORD

-- Only the roles named here may connect.
revoke connect on database postgres, template1 from public;

-- Airflow's own tables.
create role airflow login password :'airflow';
create database airflow owner airflow template template0 encoding 'UTF8';
revoke connect, temporary on database airflow from public;

-- The record. Its owner logs in nowhere; who migrates acts as it, and only the container `init`
-- has that password.
create role attr_audit_owner nologin;
create role attr_audit_writer login password :'writer';
create role attr_audit_reader login password :'reader';
-- For `im-attr-audit checkpoint`.
create role attr_audit_sealer login password :'sealer';
create role attr_audit_migrator login password :'migrator';
grant attr_audit_owner to attr_audit_migrator;
create database attr_audit template template0 encoding 'UTF8';
revoke connect on database attr_audit from public;
grant connect, create on database attr_audit to attr_audit_owner;
grant connect on database attr_audit
    to attr_audit_writer, attr_audit_reader, attr_audit_sealer, attr_audit_migrator;
SQL
