#!/bin/sh
# Adds to .env what docker-compose.yaml needs and .env does not have: generated secrets, each of 192
# bits or more. Existing values stay unchanged, so it can be run again at any time.
set -eu
umask 077
cd "$(dirname "$0")/.."
file=${1:-.env}

# A secret in letters that have no special meaning in a URL, a shell or compose.
random() { head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n'; }
fernet_key() { head -c 32 /dev/urandom | base64 | tr -d '\n' | tr '+/' '-_'; }

added=
add() {
    if grep -q "^$1=." "$file"; then return; fi
    printf '%s=%s\n' "$1" "$2" >>"$file"
    added="$added $1"
}

touch "$file"
chmod 600 "$file"
# Our first line must not continue a last line without a line end.
if [ -s "$file" ] && [ -n "$(tail -c 1 "$file")" ]; then echo >>"$file"; fi
add POSTGRES_PASSWORD "$(random)"
add AIRFLOW_DB_PASSWORD "$(random)"
add AUDIT_MIGRATOR_PASSWORD "$(random)"
add AUDIT_WRITER_PASSWORD "$(random)"
add AUDIT_READER_PASSWORD "$(random)"
add AUDIT_SEALER_PASSWORD "$(random)"
add REDIS_PASSWORD "$(random)"
add AIRFLOW_FERNET_KEY "$(fernet_key)"
add AIRFLOW_JWT_SECRET "$(random)"
add AIRFLOW_API_SECRET_KEY "$(random)"
add AIRFLOW_ADMIN_PASSWORD "$(random)"

if [ -n "$added" ]; then
    echo "Added to $file:$added"
else
    echo "$file has everything already."
fi
echo "Airflow's login is admin, with the password AIRFLOW_ADMIN_PASSWORD in $file."
