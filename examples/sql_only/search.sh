#!/bin/sh
# search.sh TEXT: SQL writes the request, curl has the server embed the text, SQL searches.
set -eu
cd "$(dirname "$0")"

sql() {
    psql "$QWEN_EMBED_DSN" --no-psqlrc --set ON_ERROR_STOP=1 "$@"
}

request=$(sql --quiet --tuples-only --no-align --set query="$1" --file request.sql)
answer=$(curl --silent --show-error --fail-with-body \
    --header 'content-type: application/json' \
    --header "authorization: Bearer ${EMBEDDINGS_TOKEN:-none}" \
    --data "$request" \
    "${EMBEDDINGS_URL:-http://127.0.0.1:8484/v1}/embeddings") || {
    echo "$answer" >&2
    exit 1
}
sql --set answer="$answer" --file search.sql
