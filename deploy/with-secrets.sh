#!/bin/sh
# Make each file of the secrets' folder a variable of its name in capitals, then become the command.
# Prefect takes its password and its key from the environment only; this way they stand in no compose file.
set -eu
for file in "${RWE_SECRETS_DIR:-/run/secrets}"/*; do
  [ -f "$file" ] || continue
  name=$(basename "$file" | tr '[:lower:]-' '[:upper:]_')
  case "$name" in
    *[!A-Z0-9_]* | [0-9]*) echo "with-secrets: $file cannot be the name of a variable" >&2; exit 2 ;;
  esac
  value=$(cat "$file")
  export "$name=$value"
done
exec "$@"
