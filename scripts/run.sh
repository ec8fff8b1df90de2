#!/bin/sh
# Builds a node and runs it on the blobs in the folder $BLOBS, or else in examples/blobs.
set -eu
. scripts/env.sh

blobs=${BLOBS:-examples/blobs}
[ -d "$blobs" ] || {
    echo "BLOBS=$blobs is not a folder; name one that has the blobs in it" >&2
    exit 1
}

echo 'Building. The first time this takes 10 to 20 minutes on two cores: it compiles the gRPC C-core.'
messages=$(cargo build --locked --release --bin corecache --message-format=json-render-diagnostics)
node=$(printf '%s\n' "$messages" | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p')
node=${node#"$PWD"/}

# A key to try: hello.txt, or else the first whose name needs no quotes.
key=hello.txt
[ -f "$blobs/$key" ] || key=$(cd "$blobs" && find . -type f | sed -n '\|^\./[A-Za-z0-9._/-]*$|{s|^\./||p;q;}')

cat <<HINTS

The node will serve the blobs in $blobs on 127.0.0.1:8800. In another terminal, type:

  $node get blobs ${key:-KEY}
  $node stats
  curl http://127.0.0.1:8801/metrics
  ghz --insecure --call corecache.v1.Cache/Get -d '{"group":"blobs","key":"${key:-KEY}"}' -c 64 -n 100000 127.0.0.1:8802

ghz is a load generator for gRPC: https://ghz.sh. Ctrl-C stops the node.

HINTS
exec "$node" serve --group "blobs=dir:$blobs"
